"""Writes the browser of samples: into the report's page, or into pages beside it.

All entries up to `PAGE_BYTES` go into the report's page. Beyond that there are pages `samples-NNNN.html`, each with the questions of one
set that fit, and the report links to them: a page that was opened as a file can load no other file, so each has its data in itself.

Texts are written by models and by whoever wrote the questions, so a page trusts none. They are JSON in a script element that no browser
runs, with every character escaped that could end it, and `browser.js` shows them as text. The page's policy lets that one script run, by
its digest, and nothing else; `mind reports` sends the same policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from pipeline.config.prompts import Prompts
from pipeline.perspectives.perspective import Perspective
from pipeline.prompt_rendering import student_prompt
from pipeline.questions.question import from_table
from pipeline.text_digests import digest
from stages.core.summaries import EvaluationSummary
from stages.report.browser.choice import MOST, Choice, choose, clipped
from stages.report.browser.evaluation_questions import answer_parts, answered
from stages.report.browser.joined import Joined, add_part, add_question, entries, open_joined
from stages.report.browser.training_questions import TRAIN, sampled, training_parts
from stages.shared.pages import render
from storage.artifact import Artifact, Draft
from storage.mirror import DERIVED

PAGE_BYTES: Final = 10_000_000
"""Largest data of one page. It is opened and searched without a noticeable wait, and fits a mail."""
PAGE: Final = Path(__file__).parents[1] / "samples.html"
SCRIPT: Final = Path(__file__).with_name("browser.js")
ASSETS: Final = {
    "samples": PAGE,
    "samples_script": SCRIPT,
    "samples_section": Path(__file__).with_name("section.html"),
    "samples_style": Path(__file__).with_name("browser.css"),
}
"""Files that the browser depends on, by role."""
_UNSAFE: Final = {sign: f"\\u{ord(sign):04x}".encode() for sign in "<>&\u2028\u2029"}


def policy() -> str:
    """The content security policy of a report: its own style, embedded images and this one script."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.read_bytes()).digest()).decode()
    shown = "style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; script-src 'sha256-{script}'; {shown}; base-uri 'none'; form-action 'none'"


def escaped(content: bytes) -> bytes:
    """JSON that may stand in a script element: the same value, without a character that could end the element."""
    for sign, escape in _UNSAFE.items():
        content = content.replace(sign.encode(), escape)
    return content


class Page(NamedTuple):
    """A page beside the report: its file, the number of its set, and which of the set's shown questions it has, counted from 1."""

    file: str
    set: int
    first: int
    last: int


class Browser(NamedTuple):
    """What the report's template shows: the data of the page itself (empty if there are pages beside it), and those pages.

    `sets`: name, group, and numbers of all and of the shown questions of each set; training comes first.
    """

    data: str
    pages: list[Page]
    sets: list[dict[str, Any]]
    script: str
    policy: str


def write_browser(
    inputs: Mapping[str, Artifact], perspectives: Sequence[Perspective], out: Draft, most: int = PAGE_BYTES
) -> Browser:
    """Choose questions, join what is known of them, and write the pages beside the report if there are any."""
    train, evaluated = choose(sampled(inputs["sampling"]), MOST), choose(answered(inputs["evaluation"]), MOST)
    sets = _sets(train, evaluated, EvaluationSummary.of(inputs["evaluation"]))
    info = {"sets": sets, "perspectives": [item.name for item in perspectives]}
    script, allowed = SCRIPT.read_text(), policy()
    folder = out.scratch / DERIVED
    folder.mkdir(exist_ok=True)
    with open_joined(folder / "samples.sqlite") as joined:
        _add_questions(inputs, train.every, evaluated.every, sets, joined)
        for question_id, found in training_parts(inputs, perspectives, train.every):
            add_part(joined, question_id, "training", found)
        for question_id, model, answer in answer_parts(inputs, evaluated.every):
            add_part(joined, question_id, model, answer)
        pages = cut([(number, len(escaped(entry))) for number, entry in entries(joined)], most)
        every = (entry for _, entry in entries(joined))
        if not pages:
            return Browser(_data(info, every), [], sets, script, allowed)
        for place, page in enumerate(pages):
            data = _data(info, islice(every, page.last - page.first + 1))
            around = [pages[near] if 0 <= near < len(pages) else None for near in (place - 1, place + 1)]
            browser = Browser(data, pages, sets, script, allowed)
            out.write_bytes(page.file, render(PAGE, browser=browser, page=page, around=around))
    return Browser("", pages, sets, script, allowed)


def cut(sizes: Sequence[tuple[int, int]], most: int) -> list[Page]:
    """The pages for entries in order, each given by the number of its set and its bytes; none if all fit into one page."""
    if sum(size for _, size in sizes) <= most:
        return []
    pages: list[Page] = []
    for number, of_set in groupby(sizes, key=itemgetter(0)):
        used, first = 0, 1
        for count, (_, size) in enumerate(of_set, 1):
            if used == 0 or used + size > most:
                used, first = 0, count
                pages.append(Page("", number, first, first))
            used += size
            pages[-1] = Page(f"samples-{len(pages):04d}.html", number, first, count)
    return pages


def _data(info: Mapping[str, Any], questions: Iterable[bytes]) -> str:
    """The data of a page, safe in a script element."""
    parts = [escaped(orjson.dumps(info))[:-1], b',"entries":[', b",".join(map(escaped, questions)), b"]}"]
    return b"".join(parts).decode()


def _sets(train: Choice, evaluated: Choice, evaluation: EvaluationSummary) -> list[dict[str, Any]]:
    choices = [(TRAIN, TRAIN, train), *((group, name, evaluated) for group, name in evaluation.sets)]
    return [
        {"group": group, "name": name, "there": choice.there.get(name, 0), "shown": len(choice.chosen.get(name, ()))}
        for group, name, choice in choices
    ]


def _add_questions(
    inputs: Mapping[str, Artifact],
    train: frozenset[int],
    evaluated: frozenset[int],
    sets: Sequence[Mapping[str, Any]],
    joined: Joined,
) -> None:
    """Add every chosen question, with its prompt as the student reads it, without the turns of a chat."""
    prompts = Prompts.model_validate(inputs["evaluation"].manifest["config"]["prompts"])
    numbers = {item["name"]: number for number, item in enumerate(sets) if number}
    place = 0
    for batch in inputs["questions"].batches("questions", rows=1024):
        roles, names, repeats = (batch[name].to_pylist() for name in ("role", "set", "repeats"))
        for role, name, other, question in zip(roles, names, repeats, from_table(batch), strict=True):
            place += 1
            if digest(question.id) not in (train if role == TRAIN else evaluated):
                continue
            about = {
                "id": question.id,
                "prompt": clipped(student_prompt(prompts, question)),
                "gold": clipped(question.answer),
                "task": question.task,
                "repeats": other,
            }
            add_question(joined, 0 if role == TRAIN else numbers[name], place, question.id, about)
