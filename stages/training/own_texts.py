"""On-policy distillation: lets the student write about the questions of the next steps, and the teacher score what it wrote.

A round writes for all steps up to the next round, with the weights at its start. Each rank writes for its own questions. Every text has a
seed of its own, of step, question and number, so it does not depend on ranks and batches. The texts and their scores are committed before
the first step reads them; a resumed training reads those of its unfinished round, because the weights that wrote them are gone, and
writes later rounds again.

The student writes to the prompt that it is trained on, and the teacher reads the same text as its own prompt. Gradients do not pass through
the choice of tokens, as in GKD (Agarwal et al. 2023, arXiv:2306.13649).

Axes: T tokens of a text, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import torch

from pipeline.config.soft_targets import OnPolicy
from pipeline.generation.engine import Decoding, untold
from pipeline.generation.transformers_engine import TransformersEngine
from pipeline.prompt_rendering import stops
from pipeline.student.attention import own_attention
from pipeline.student.batch import TokenRow
from pipeline.student.teacher_divergence import TopTokens
from pipeline.student.token_losses import evaluating
from pipeline.teacher_scores.open_scores import open_scores
from pipeline.teacher_scores.scores import Given, TeacherScores, end_tokens, in_students_words
from pipeline.text_digests import seed_of
from pipeline.training.micro_batch import OwnText
from pipeline.training.step import TrainingState
from pipeline.training.training_set import questions_of_step
from stages.core.summaries import SynthesisSummary
from stages.shared.mapped_tables import numbered
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.atomic import read_parquet, write_parquet

_RANKS: Final = 1000
"""A file's number is that of its first step times this, plus the rank's."""


class _Asked(NamedTuple):
    """A text to write: the step that reads it, its question q of that step, the prompt's text and tokens, and the seed."""

    step: int
    question: int
    prompt: str
    tokens: list[int]
    seed: int


def schema(top_k: int) -> pa.Schema:
    """A row per text. `token_TC` and `logprob_TC` are the teacher's most likely tokens at each of its tokens."""
    return pa.schema(
        [
            ("step", pa.int64()),
            ("question", pa.int64()),
            ("text", pa.string()),
            ("prompt_tokens", pa.list_(pa.int32())),
            ("tokens", pa.list_(pa.int32())),
            ("token_TC", pa.list_(pa.list_(pa.int32(), top_k))),
            ("logprob_TC", pa.list_(pa.list_(pa.float32(), top_k))),
        ]
    )


@dataclass
class OwnTexts:
    """The own texts of one rank. Called with a step, it gives those of the rank's questions."""

    state: TrainingState
    config: Config
    policy: OnPolicy
    tokenizer: Any
    scores: TeacherScores
    prompts: Mapping[int, str]
    """The prompt of each question, by its number in the training set."""
    draft: Path
    seconds: dict[str, float] = field(default_factory=lambda: {"writing": 0.0, "scoring": 0.0})
    """What the texts of the latest step took; zero where an earlier round wrote them."""
    _round: int = -1
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, step: int) -> list[OwnText]:
        if step < self.policy.first_step(self.config.training.steps):
            return []
        first = step - step % self.policy.every
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        if first != self._round:
            path = self._file(first)
            if not path.exists():
                write_parquet(path, pa.Table.from_pylist(self._written(first), schema=schema(self.policy.top_k)))
            self._round, self._rows = first, read_parquet(path).to_pylist()
        return [_own_text(row) for row in self._rows if row["step"] == step]

    def forget_rounds_from(self, step: int) -> None:
        """Remove this rank's texts of rounds that begin at `step` or later, which a killed process has left."""
        for path in self.draft.glob(f"own_texts-*{self.state.rank:03d}.parquet"):
            if int(path.stem.rpartition("-")[2]) // _RANKS >= step:
                path.unlink()

    def _file(self, first: int) -> Path:
        return self.draft / f"own_texts-{first * _RANKS + self.state.rank:09d}.parquet"

    def _asked(self, first: int) -> Iterator[_Asked]:
        """The texts of the rank's questions of a round's steps."""
        state, settings = self.state, self.config.training
        share = settings.questions_per_step // state.ranks
        begin = max(first, self.policy.first_step(settings.steps))
        for step in range(begin, min(first + self.policy.every, settings.steps)):
            index_Q = questions_of_step(step, len(state.data), settings.questions_per_step, state.seed)
            for q in range(state.rank * share, (state.rank + 1) * share):
                n = int(index_Q[q])
                row = state.data.row(n, int(state.data.mask_NK[n].nonzero()[0, 0]))
                for number in range(self.policy.texts):
                    seed = seed_of(state.seed, "own text", step, q, number)
                    yield _Asked(step, q, self.prompts[n], row.tokens[: row.start], seed)

    def _written(self, first: int) -> list[dict[str, Any]]:
        policy, student, began = self.policy, self.state.engine.module.student, time.monotonic()
        asked = list(self._asked(first))
        stop = stops(self.config.prompts, self.config.prompts.question, self.config.student)
        decoding = Decoding(policy.temperature, 1.0, policy.max_tokens, stop=stop)
        with evaluating(student), own_attention(student):
            writer = TransformersEngine(
                student, self.tokenizer, self.config.student, policy.rows, self.config.training.max_length, untold
            )
            texts = writer.write([one.tokens for one in asked], [one.seed for one in asked], decoding)
        written = time.monotonic()
        given = [Given(one.prompt, text) for one, text in zip(asked, texts, strict=True)]
        teacher = self.config.teacher
        assert teacher is not None, "set with training.on_policy"
        ends = end_tokens(teacher, self.tokenizer)
        rows = []
        for one, text, found in zip(asked, texts, self.scores.score(given, policy.top_k), strict=True):
            mine = in_students_words(found, ends, len(self.tokenizer))
            rows.append(
                {
                    "step": one.step,
                    "question": one.question,
                    "text": self.tokenizer.decode(text, skip_special_tokens=True),
                    "prompt_tokens": one.tokens,
                    "tokens": text,
                    "token_TC": mine.ids_TC.tolist(),
                    "logprob_TC": mine.logprobs_TC.tolist(),
                }
            )
        self.seconds = {"writing": written - began, "scoring": time.monotonic() - written}
        return rows


def _own_text(row: Mapping[str, Any]) -> OwnText:
    tokens, start = [*row["prompt_tokens"], *row["tokens"]], len(row["prompt_tokens"])
    soft = TopTokens(torch.tensor(row["token_TC"], dtype=torch.int32), torch.tensor(row["logprob_TC"]))
    return OwnText(row["question"], TokenRow(tokens, start, (start, start)), soft)


def prompts_of(state: TrainingState, synthesis: Artifact, names: list[str], steps: int) -> dict[int, str]:
    """The prompts of the questions that the steps take, by their numbers in the training set; none without on-policy distillation."""
    if state.config.on_policy is None:
        return {}
    data, per_step = state.data, state.config.questions_per_step
    wanted = {int(n) for step in range(steps) for n in questions_of_step(step, len(data), per_step, state.seed)}
    mine = {n if data.numbers_N is None else int(data.numbers_N[n]): n for n in wanted}
    found: dict[int, str] = {}
    pieces = synthesis.batches("rationales", ["question_id", "perspective", "prompt"], 1024)
    for piece, (n_B, _) in numbered(pieces, names, SynthesisSummary.of(synthesis).kept_questions):
        for n, prompt in zip(n_B.tolist(), piece["prompt"].to_pylist(), strict=True):
            if n in mine:
                found[mine[n]] = prompt
    return found


@contextmanager
def own_texts(
    state: TrainingState, config: Config, tokenizer: Any, prompts: Mapping[int, str], draft: Path, first: int
) -> Iterator[OwnTexts | None]:
    """The own texts from step `first` on, with the teacher beside the student inside the block; None without on-policy distillation.

    `prompts` are those of the questions, by their numbers in the training set; the texts are committed to the folder `draft`.

    Raises:
        EngineError: the teacher cannot be loaded or reached.
    """
    policy = config.training.on_policy
    if policy is None or config.teacher is None:
        yield None
        return
    with open_scores(policy.engine, config.teacher, tokenizer, policy.top_k) as scores:
        found = OwnTexts(state, config, policy, tokenizer, scores, prompts, draft)
        found.forget_rounds_from(first)
        yield found
