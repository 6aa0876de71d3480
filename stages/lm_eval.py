"""Exports a run's evaluation items as tasks of lm-evaluation-harness and lighteval, and compares lm-eval's answers with ours item by item.

There is one task per evaluation set. Its items are the run's own, in order, with the exact text that a model reads, including the special
tokens of a chat template; lm-eval is therefore run without `--apply_chat_template`. Its grading uses lm-eval's own filters only: the last
`\\boxed{...}` must equal the canonical answer. Two verdicts on an item can differ because the models wrote different texts (numerics,
batching, dtype) or because the same text was graded differently; the cause is reported for each item.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow.compute as pc
import yaml

from pipeline.config.models import Weights
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from pipeline.grading.grade import Outcome
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import rendered, stops, student_prompt
from stages.shared.answering import EvaluationTask, items
from stages.shared.pages import render_text
from storage.artifact import Artifact
from storage.atomic import new_folder

LIGHTEVAL: Final = Path(__file__).with_name("lighteval_tasks.txt")
_INSIDE: Final = r"(?:\\.|[^{}\\]|\{(?:\\.|[^{}\\]|\{(?:\\.|[^{}\\]|\{(?:\\.|[^{}\\])*\})*\})*\})*"
_BOXED: Final = rf"(?s)\\boxed\s*\{{({_INSIDE})\}}"
"""Braces inside the box are balanced to a depth of three, which a regular expression can still express."""
_UNREAD: Final = "[invalid]"
"""lm-eval's value for a text in which its pattern finds nothing."""


def tag(run: RunConfig) -> str:
    """The lm-eval tag of all sets of a run."""
    return f"mind_{run.name}"


def _task(run: RunConfig, name: str, path: Path, stop: tuple[str, ...]) -> dict[str, Any]:
    return {
        "task": f"{tag(run)}_{name}",
        "tag": [tag(run)],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {
            "until": list(stop),
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": run.evaluation.max_tokens,
        },
        "filter_list": [
            {
                "name": "boxed",
                "filter": [
                    {"function": "regex", "regex_pattern": _BOXED, "group_select": -1, "fallback": _UNREAD},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
        "metadata": {"version": 1.0},
    }


def export(run: RunConfig, questions: Artifact, model: Weights, folder: Path) -> dict[str, int]:
    """Write tasks and items, rendered with the model's tokenizer, into a new folder, atomically. lighteval's tasks are one module there.

    Returns the number of items of each set.

    Raises:
        ConfigError: the folder already exists.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: already exists; give a new folder")
    tokenizer, stop = load_tokenizer(model), stops(run.prompts, run.prompts.question, model)
    counts: dict[str, int] = {}
    with new_folder(folder) as aside:
        for item in items(EvaluationTask(questions, run.prompts, run.evaluation)):
            prompt = rendered(tokenizer, student_prompt(run.prompts, item.question), model.dialogue)
            row = {"question_id": item.question.id, "set": item.set, "prompt": prompt, "gold": item.question.answer}
            counts[item.set] = counts.get(item.set, 0) + 1
            path = aside / item.set / "test.jsonl"
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        for name in counts:
            text = yaml.safe_dump(_task(run, name, (folder / name / "test.jsonl").resolve(), stop), sort_keys=False)
            (aside / f"{name}.yaml").write_text(text)
        most = run.evaluation.max_tokens
        module = render_text(LIGHTEVAL, boxed=_BOXED, tag=tag(run), max_tokens=most, stop=list(stop), sets=list(counts))
        (aside / "lighteval_tasks.py").write_bytes(module)
    return counts


class Answer(NamedTuple):
    """One side's answer to an item: the text, the answer parsed from it, and whether that is correct."""

    text: str
    read: str | None
    right: bool


class Compared(NamedTuple):
    """One item that both sides answered: its set and id, our answer and lm-eval's."""

    set: str
    question_id: str
    ours: Answer
    theirs: Answer

    @property
    def same_text(self) -> bool:
        return self.ours.text.strip() == self.theirs.text.strip()

    @property
    def cause(self) -> str | None:
        """Why the verdicts differ; None if they agree."""
        if self.ours.right == self.theirs.right:
            return None
        return "grading" if self.same_text else "text"


def _files(paths: Iterable[Path]) -> list[Path]:
    found = [file for path in paths for file in (sorted(path.rglob("samples_*.jsonl")) if path.is_dir() else [path])]
    if not found or not all(file.is_file() for file in found):
        missing = next((file for file in found if not file.is_file()), None) or next(iter(paths))
        raise ConfigError(f"{missing}: no samples_*.jsonl of lm-eval found; run it with --log_samples and --output_path")
    return found


def read_samples(paths: Sequence[Path]) -> Iterator[tuple[str, str, Answer]]:
    """Set, question id and answer of every item in lm-eval's files, or in folders that contain them.

    Raises:
        ConfigError: file and row of a line that is not a sample of an exported task.
    """
    for path in _files(paths):
        for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), 1):
            try:
                sample = json.loads(line)
                text, read = sample["resps"][0][0], sample["filtered_resps"][0]
                mine = (sample["doc"]["set"], sample["doc"]["question_id"])
                answer = Answer(text, None if read == _UNREAD else read, sample["exact_match"] == 1.0)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise ConfigError(
                    f"{path}: row {number}: not a sample of a task exported by mind lm-eval ({type(error).__name__}: {error}); run "
                    "lm-eval on the exported tasks"
                ) from error
            yield *mine, answer


class Comparison(NamedTuple):
    """Items that both sides answered, and per set the number that only our model answered (lm-eval's `--limit`)."""

    both: list[Compared]
    ours_alone: Counter[str]


def compare(answers: Artifact, model: str, samples: Iterable[tuple[str, str, Answer]]) -> Comparison:
    """Pair every item that lm-eval answered with our model's answer.

    Raises:
        ConfigError: our model has no answer to an item, or lm-eval answered it twice.
    """
    ours: dict[tuple[str, str], Answer] = {}
    for batch in answers.batches("items", ["model", "set", "question_id", "text", "answer", "outcome"]):
        for row in batch.filter(pc.equal(batch["model"], model)).to_pylist():
            right = row["outcome"] == Outcome.CORRECT.value
            ours[row["set"], row["question_id"]] = Answer(row["text"], row["answer"], right)
    found, seen = [], set()
    for place, question_id, theirs in samples:
        mine = ours.get((place, question_id))
        if (place, question_id) in seen:
            raise ConfigError(
                f"lm-eval's samples contain {question_id!r} of {place} twice; give the files of one lm-eval run only"
            )
        seen.add((place, question_id))
        if mine is None:
            raise ConfigError(
                f"{answers.name}: {model} has no answer to {question_id!r} of {place}; compare with the run that was exported"
            )
        found.append(Compared(place, question_id, mine, theirs))
    return Comparison(found, Counter(place for place, question_id in ours if (place, question_id) not in seen))


def table(compared: Comparison) -> list[dict[str, Any]]:
    """Agreement per set and in total."""
    found, alone = compared
    sets = list(dict.fromkeys([*(item.set for item in found), *alone]))
    rows = [_counts(name, [item for item in found if item.set == name], alone[name]) for name in sets]
    return [*rows, _counts("all", found, alone.total())]


def _counts(name: str, found: Sequence[Compared], alone: int) -> dict[str, Any]:
    causes = [item.cause for item in found]
    return {
        "set": name,
        "items": len(found),
        "not asked there": alone,
        "right here": sum(item.ours.right for item in found),
        "right there": sum(item.theirs.right for item in found),
        "same verdict": causes.count(None),
        "same text": sum(item.same_text for item in found),
        "differ by text": causes.count("text"),
        "differ by grading": causes.count("grading"),
    }
