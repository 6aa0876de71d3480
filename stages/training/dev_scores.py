"""Lets the student answer dev questions while it trains, graded as the evaluation grades them, and keeps the best student if asked to.

Every rank answers a share with plain transformers on the weights that it trains, in evaluation mode, greedily; no random state is touched,
so the steps are those of a training without dev scores. The rows are committed with the log of the steps, before the checkpoint.

With `keep_best`, a student better than all before it is exported at once to `best-STEP` in the scratch folder, because its weights are gone
a step later. The folder that the last checkpoint's log calls best is never removed, so a resumed run has it.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch.distributed as dist

from pipeline.analysis.accuracy_numbers import dev_accuracies
from pipeline.errors import QuestionError
from pipeline.generation.engine import Decoding
from pipeline.generation.open_engine import engine_on
from pipeline.grading.grade import Outcome
from pipeline.prompt_rendering import prompt_tokens, stops, student_prompt
from pipeline.questions.question import Question, from_table, grades
from pipeline.student.attention import own_attention
from pipeline.student.token_losses import evaluating
from pipeline.training.step import TrainingState
from stages.training.export_student import export
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.atomic import read_parquet, sync_file, write_parquet

DEV: Final = pa.schema(
    [
        ("step", pa.int64()),
        ("set", pa.string()),
        ("items", pa.int64()),
        *((kind.value, pa.int64()) for kind in Outcome),
        ("tokens", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
"""One row per evaluation and set; `step` counts the steps taken, 0 for the base. `seconds` are those of the whole evaluation."""


class DevQuestion(NamedTuple):
    """A question of a dev set."""

    set: str
    question: Question


def dev_questions(config: Config, questions: Artifact, tokenizer: Any, context: int | None) -> list[DevQuestion]:
    """The first `items` questions of each wanted set.

    Raises:
        QuestionError: a prompt leaves no room for an answer in the student's `context`.
    """
    wanted = config.training.dev
    assert wanted is not None, "asked for with dev scores only"
    taken: Counter[str] = Counter()
    found = []
    for batch in questions.batches("questions", rows=1024):
        dev = batch.filter(pc.equal(batch["use"], "dev"))
        for name, question in zip(dev["set"].to_pylist(), from_table(dev), strict=True):
            if (wanted.sets is None or name in wanted.sets) and taken[name] < wanted.items:
                taken[name] += 1
                found.append(DevQuestion(name, question))
    for name, question in found:
        length = len(prompt_tokens(tokenizer, student_prompt(config.prompts, question), config.student.dialogue))
        if context is not None and length + wanted.max_tokens > context:
            raise QuestionError(
                f"question {question.id!r} of {name}: its prompt has {length} tokens; with training.dev.max_tokens {wanted.max_tokens} it "
                f"exceeds the student's context of {context}; lower it, or exclude long questions with max_characters on their source"
            )
    return found


def dev_scores(
    state: TrainingState, config: Config, tokenizer: Any, asked: Sequence[DevQuestion], step: int
) -> list[dict[str, Any]]:
    """Rows of `DEV` for the student after `step` steps, the same on every rank."""
    wanted, student, began = config.training.dev, state.engine.module.student, time.monotonic()
    assert wanted is not None, "asked for with dev scores only"
    mine = list(asked)[state.rank :: state.ranks]
    decoding = Decoding(0.0, 1.0, wanted.max_tokens, stop=stops(config.prompts, config.prompts.question, config.student))
    with evaluating(student), own_attention(student):
        engine = engine_on(student, tokenizer, config.student, wanted.rows)
        said = engine.generate([student_prompt(config.prompts, item.question) for item in mine], [0] * len(mine), decoding)
    graded = grades(
        [(item.question, answer.text, answer.finish_reason == "stop") for item, answer in zip(mine, said, strict=True)]
    )
    counted: Counter[tuple[str, str]] = Counter()
    for item, verdict, answer in zip(mine, graded, said, strict=True):
        counted[item.set, verdict.outcome.value] += 1
        counted[item.set, "items"] += 1
        counted[item.set, "tokens"] += answer.completion_tokens
    shares: list[Any] = [counted] * state.ranks
    if state.ranks > 1:
        dist.all_gather_object(shares, counted)
    total = sum(shares, Counter[tuple[str, str]]())
    columns = [name for name in DEV.names if name not in ("step", "set", "seconds")]
    seconds = time.monotonic() - began
    return [
        {"step": step, "set": name, **{column: total[name, column] for column in columns}, "seconds": seconds}
        for name in dict.fromkeys(item.set for item in asked)
    ]


def best_step(rows: Iterable[dict[str, Any]], name: str) -> int | None:
    """The first step with the highest accuracy on a set; the base is no candidate. None if nothing was trained yet."""
    scores = {step: of_step[name] for step, of_step in dev_accuracies(rows).items() if step > 0}
    return max(scores, key=lambda step: (scores[step], -step), default=None)


@dataclass
class DevLog:
    """The dev scores of one training on one rank. Without dev questions every method does nothing, and the last student is exported."""

    state: TrainingState
    config: Config
    tokenizer: Any
    asked: Sequence[DevQuestion]
    draft: Path
    scratch: Path
    rows: list[dict[str, Any]]
    """Those of all evaluations; at first those that are committed."""
    _committed: int = field(init=False)

    def __post_init__(self) -> None:
        self._committed = len(self.rows)

    def after(self, step: int) -> dict[str, float]:
        """Evaluate the student if it is time after `step` steps; its accuracies, or nothing."""
        dev = self.config.training.dev
        if dev is None or (step % dev.every and step != self.config.training.steps):
            return {}
        scored = dev_scores(self.state, self.config, self.tokenizer, self.asked, step)
        self.rows += scored
        if step > 0 and self.best == step:
            self._keep(step)
        return dev_accuracies(scored)[step]

    def _keep(self, step: int) -> None:
        export(self.state, self.config, self._folder(step))
        if self.state.rank == 0:
            for path in self._folder(step).iterdir():
                sync_file(path)

    @property
    def best(self) -> int | None:
        """The first step with the highest accuracy; None if the last student is wanted."""
        dev = self.config.training.dev
        return None if dev is None or dev.keep_best is None else best_step(self.rows, dev.keep_best)

    def commit(self, step: int) -> None:
        """Write the rows since the last checkpoint, before the one after `step` steps. On rank 0."""
        if new := self.rows[self._committed :]:
            write_parquet(self.draft / f"dev-{step:06d}.parquet", pa.Table.from_pylist(new, schema=DEV))
            self._committed = len(self.rows)

    def forget_other_students(self) -> None:
        """Remove every kept student but the best one, after a checkpoint. On rank 0."""
        best = self.best
        for folder in self.scratch.glob("best-*"):
            if best is None or folder != self._folder(best):
                shutil.rmtree(folder)

    def export(self) -> None:
        """Write the student of the last step, or the best one, into the draft."""
        target, best = self.draft / "student", self.best
        if best is None:
            export(self.state, self.config, target)
        elif self.state.rank == 0 and self._folder(best).exists():  # otherwise a killed process has moved it
            shutil.rmtree(target, ignore_errors=True)
            self._folder(best).rename(target)

    def summary(self) -> dict[str, Any]:
        """The training summary's fields about dev scores."""
        if not self.rows:
            return {}
        exported = self.best or self.config.training.steps
        return {
            "dev": dev_accuracies(self.rows)[exported],
            "dev_seconds": round(sum({row["step"]: row["seconds"] for row in self.rows}.values()), 1),
            "exported_step": self.best,
        }

    def _folder(self, step: int) -> Path:
        return self.scratch / f"best-{step:06d}"


def open_dev_log(
    state: TrainingState, config: Config, tokenizer: Any, questions: Artifact | None, draft: Path, scratch: Path, first: int
) -> DevLog:
    """The dev scores that are logged so far; those of the base are taken before the first step.

    Raises:
        QuestionError: a prompt leaves no room for an answer.
    """
    asked = []
    if config.training.dev is not None and questions is not None:
        context = getattr(state.engine.module.student.config.get_text_config(), "max_position_embeddings", None)
        asked = dev_questions(config, questions, tokenizer, context)
    logged = (row for path in sorted(draft.glob("dev-*.parquet")) for row in read_parquet(path).to_pylist())
    rows = [row for row in logged if row["step"] <= first]  # another rank may not have removed later ones yet
    log = DevLog(state, config, tokenizer, asked, draft, scratch, rows)
    if first == 0:
        log.after(0)
    return log
