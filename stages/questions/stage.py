"""Stage 1: loads questions from their sources, checks them, and keeps evaluation questions out of training.

Writes `questions-*.parquet`: the schema of `pipeline/questions` plus `role` (train, id, ood), `set`, `use` (train, dev, test) and
`repeats`; evaluation questions come first. A training question is dropped if its id or normalised text is also in an evaluation set or,
with `shared_words`, if it shares a long passage with an evaluation question; `overlaps-*.parquet` names both and the reason. With a
`near_duplicates` threshold, a training question is dropped if it is similar to an earlier one; `near_duplicates-*.parquet` names both. An
evaluation question that repeats one of an earlier set of the same use, or that its benchmark is known to share with another benchmark, is
kept and names that set, so that accuracy can also be reported without repeats: a benchmark is reported as it is published.

Questions are streamed one shard at a time. In memory are only the digests of their ids, the evaluation questions' names by digests of id
and text, their passages, the signatures of compared questions, and the names of dropped questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa

from pipeline.config.questions import EvaluationSet, Questions
from pipeline.config.run import RunConfig
from pipeline.errors import QuestionError
from pipeline.prefetch import chunks
from pipeline.questions.contamination import (
    Contaminated,
    Evaluated,
    Numbers,
    collect,
    identity_digests,
    overlap,
    passages,
    same_as,
    words_of,
)
from pipeline.questions.load import content, selected
from pipeline.questions.named_benchmarks import NamedSource, also_in, evaluation_only
from pipeline.questions.question import Question, to_table
from pipeline.schema.fields import Frozen, identity
from pipeline.text_digests import digest
from stages.core.progress import Progress
from stages.core.summaries import QuestionsSummary
from storage.artifact import Artifact, Draft

if TYPE_CHECKING:
    from pipeline.questions.near_duplicates import NearDuplicate

NAME: Final = "questions"
VERSION: Final = 6
INPUTS: Final[tuple[str, ...]] = ()
ROWS: Final = 8192
"""Rows per shard, except the last one."""
_TRAINING: Final = "training questions"
OVERLAPS: Final = pa.schema([(name, pa.string()) for name in ("question_id", "reason", "set", "evaluated_id", "passage")])
"""Dropped training questions, the evaluation question that each overlaps, and the shared id, text or passage."""
NEAR_DUPLICATES: Final = pa.schema([("question_id", pa.string()), ("kept_id", pa.string()), ("similarity", pa.float64())])
"""Dropped training questions, the earlier question that each is similar to, and the similarity."""


class Config(Frozen):
    """The question sources."""

    questions: Questions = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(questions=run.questions)


def outside(config: Config) -> dict[str, str]:
    """Digests of files and local folders."""
    train, evaluation = config.questions.sources()
    found = {f"source {number}": content(source) for number, source in enumerate([*train, *evaluation])}
    return {name: digest for name, digest in found.items() if digest is not None}


def check(config: Config) -> None:
    """Nothing to check; `run` checks the rows and loads no model."""


def _distinct(questions: Iterable[Question], seen: set[int], where: str) -> Iterator[Question]:
    """Yield the questions, rejecting ids that are in `seen`; adds their ids to it."""
    for question in questions:
        identity = digest(question.id)
        if identity in seen:
            raise QuestionError(f"{where}: id {question.id!r} occurs twice; give each question a unique id")
        seen.add(identity)
        yield question


class _Tagged(NamedTuple):
    """A question with its role, set and use, and the set that also contains it."""

    question: Question
    role: str
    set: str
    use: str
    repeats: str = ""


class _Counts(NamedTuple):
    """Numbers of questions by set; training questions are counted under a name that no set can have."""

    given: Counter[str]
    kept: Counter[str]
    long: Counter[str]
    repeated: Counter[str]


class _Seen(NamedTuple):
    """Identifiers of evaluation questions: ids and texts, and passages with their questions if `shared_words` is set."""

    keys: dict[int, Evaluated]
    passages: list[tuple[Evaluated, Numbers]]


def _repeated(item: EvaluationSet, wording: int, first: dict[tuple[str, int], str]) -> str:
    """The other set that a question comes from, or an empty string; new questions are added to `first`."""
    shared = also_in(item.source.name) if isinstance(item.source, NamedSource) else {}
    known = shared.get(f"{wording:032x}"[:12])
    if known is not None:
        return known
    earlier = first.setdefault((item.use, wording), item.name)
    return "" if earlier == item.name else earlier


def _evaluation(config: Config, seen: _Seen, counts: _Counts, progress: Progress) -> Iterator[_Tagged]:
    """Yield the evaluation questions; adds their identifiers to `seen`."""
    length = config.questions.shared_words
    ids: set[int] = set()
    first: dict[tuple[str, int], str] = {}
    for item, source in zip(config.questions.evaluation, config.questions.sources()[1], strict=True):
        for question in _distinct(selected(source, counts.long, item.name), ids, "questions.evaluation"):
            keys = identity_digests(question)
            evaluated = Evaluated(item.name, question.id)
            for key in keys:
                seen.keys.setdefault(key, evaluated)
            if length is not None:
                seen.passages.append((evaluated, passages(words_of(question), length)))
            repeats = _repeated(item, keys[1], first)
            counts.kept[item.name] += 1
            counts.repeated[item.name] += bool(repeats)
            yield _Tagged(question, item.group, item.name, item.use, repeats)
        if not counts.kept[item.name]:
            raise QuestionError(f"questions.evaluation: {item.name}: every question is longer than max_characters; raise it")
        progress.advance(1)


class _Dropped(NamedTuple):
    """Dropped training questions: those that overlap with evaluation questions, and near-duplicates of other training questions."""

    overlaps: list[Contaminated]
    near: list[NearDuplicate]


def _without_near_duplicates(
    questions: Iterable[_Tagged], threshold: float | None, near: list[NearDuplicate]
) -> Iterator[_Tagged]:
    """Yield questions that are not similar to an earlier one (all of them without a threshold); adds the others to `near`."""
    if threshold is None:
        yield from questions
        return
    from pipeline.questions.near_duplicates import KeptQuestions

    staying = KeptQuestions(threshold)
    for item in questions:
        match = staying.alike(item.question)
        if match is None:
            yield item
        else:
            near.append(match)


def _train(config: Config, seen: _Seen, fallen: _Dropped, counts: _Counts, progress: Progress) -> Iterator[_Tagged]:
    """Yield training questions that do not overlap with evaluation questions; adds the others to `fallen`."""
    ids: set[int] = set()
    length = config.questions.shared_words
    known = None if length is None else collect(seen.passages, length)
    for source in config.questions.sources()[0]:
        every = _distinct(selected(source, counts.long, _TRAINING), ids, "questions.train")
        for question in every:
            left_out = same_as(question, seen.keys) or (None if known is None else overlap(question, known))
            if left_out is None:
                yield _Tagged(question, "train", "train", "train")
            else:
                fallen.overlaps.append(left_out)
        progress.advance(1)
    counts.given[_TRAINING] = len(ids)


def _table(rows: list[_Tagged]) -> pa.Table:
    table = to_table(row.question for row in rows)
    for column in ("role", "set", "use", "repeats"):
        table = table.append_column(column, pa.array([getattr(row, column) for row in rows], pa.string()))
    return table


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> QuestionsSummary:
    """Write all sources to shards, evaluation questions first, because they decide which training questions are dropped."""
    sources = config.questions
    progress.start("sources", len(sources.train) + len(sources.evaluation), "sources")
    seen, fallen = _Seen({}, []), _Dropped([], [])
    counts = _Counts(Counter(), Counter(), Counter(), Counter())
    out.clear("questions")
    out.clear("overlaps")
    out.clear("near_duplicates")
    train = _without_near_duplicates(_train(config, seen, fallen, counts, progress), sources.near_duplicates, fallen.near)
    for chunk in chunks(chain(_evaluation(config, seen, counts, progress), train), ROWS):
        out.write_shard("questions", _table(chunk))
        counts.kept[_TRAINING] += sum(row.role == "train" for row in chunk)
    sharing = Counter(row.set for row in fallen.overlaps if row.reason == "passage")
    evaluated_too = len(fallen.overlaps) - sharing.total()
    if not counts.kept[_TRAINING]:
        raise QuestionError(
            f"questions.train: no question is left: {evaluated_too} questions are also in an evaluation set, {sharing.total()} share a "
            f"passage with one, {counts.long[_TRAINING]} are longer than max_characters; use another source"
        )
    if fallen.overlaps:
        out.write_shard("overlaps", pa.Table.from_pylist([row._asdict() for row in fallen.overlaps], schema=OVERLAPS))
    if fallen.near:
        out.write_shard(
            "near_duplicates", pa.Table.from_pylist([match._asdict() for match in fallen.near], schema=NEAR_DUPLICATES)
        )
    return QuestionsSummary(
        train=counts.kept[_TRAINING],
        left_out_because_evaluated=evaluated_too,
        left_out_because_of_a_passage=dict(sharing),
        left_out_as_near_duplicates=None if sources.near_duplicates is None else len(fallen.near),
        left_out_because_long=dict(counts.long),
        evaluation={item.name: counts.kept[item.name] for item in sources.evaluation},
        repeats={name: count for name, count in counts.repeated.items() if count},
        trained_despite_evaluation_only=[getattr(source, "name", "") for source in sources.train if evaluation_only(source)],
    )
