"""A language model decides about samples whose answer the rules cannot read; teacher's and imported ones alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.engines import Judge
from pipeline.config.models import HubModel, LocalModel
from pipeline.generation.engine import Completion, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.grading.grade import Outcome
from pipeline.llm_judge import RULE, judge_prompt, replies, verdict
from pipeline.model_folders import check_model, load_tokenizer
from pipeline.questions.question import Question
from pipeline.rationales.curation import without_thoughts
from stages.shared.prompt_lengths import check_lengths
from storage.artifact import Draft


def check_judge(judge: Judge | None) -> None:
    """Check the judge's template and model folder before any model loads."""
    if judge is not None:
        judge_prompt(judge, Question(id="probe", question="?", answer="", answer_type="text"), "?")
        if judge.engine.in_process:
            check_model(judge.model, "sampling.judge.model")


def check_room(judge: Judge | None, questions: Callable[[], Iterable[Question]], sample: int) -> None:
    """Check that a local judge's context holds every question with `sample` tokens of a sample and the verdict.

    Assumes that both tokenizers give similar counts; a sample that still needs more is not judged.
    """
    if judge is not None and judge.engine.in_process and isinstance(judge.model, LocalModel | HubModel):
        bare = ((question.id, judge_prompt(judge, question, "")) for question in questions())
        room, limit = sample + judge.max_tokens, judge.engine.max_context
        check_lengths(load_tokenizer(judge.model), bare, judge.model.dialogue, room, limit, "its judge prompt")


@contextmanager
def open_judge(judge: Judge | None, arrived: Path) -> Iterator[Engine | None]:
    """The judge's engine; None without a judge. `arrived` keeps replies that are in no committed shard."""
    if judge is None:
        yield None
        return
    with open_engine(judge.engine, judge.model, arrived) as engine:
        yield engine


def judge_rows(engine: Engine | None, judge: Judge | None, rows: Sequence[dict[str, Any]], asked: Sequence[Question]) -> None:
    """Ask about the rows that have text but no readable answer, and write the verdicts into them; `asked` are the rows' questions."""
    if engine is None or judge is None:
        return
    open_rows = [
        (row, question, said)
        for row, question in zip(rows, asked, strict=True)
        if row["outcome"] == Outcome.UNPARSED and (said := without_thoughts(row["text"]).strip())
    ]
    found = replies(engine, judge, [(question, said) for _, question, said in open_rows])
    for (row, _, _), reply in zip(open_rows, found, strict=True):
        row |= _judged(reply)


def _judged(reply: Completion) -> dict[str, str]:
    """The columns that the judge's reply adds to a sample's row."""
    if reply.finish_reason == "too_long":
        return {"verdict": reply.finish_reason}
    found = verdict(reply.text)
    if found is None:
        return {"judged": reply.text, "verdict": "unreadable"}
    return {"judged": reply.text, "verdict": found.value, "outcome": found.value, "rule": RULE}


def verdicts(judge: Judge | None, out: Draft) -> dict[str, int] | None:
    """Number of each verdict, None without a judge.

    A reply without a verdict counts as `unreadable`, a sample over the judge's context as `too_long`.
    """
    if judge is None:
        return None
    counts = Counter[str]()
    for shard in out.shards("samples", ["verdict"]):
        counts.update(shard["verdict"].drop_null().to_pylist())
    return dict(counts)
