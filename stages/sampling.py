"""Stage 3: samples the teacher's rationales for every question and perspective, and grades them.

A shard holds all samples of its questions and is committed atomically. A resumed run samples only questions that no shard contains,
whatever the shards' sizes, so nothing depends on positions. Every sample has its own seed, derived from question, perspective and sample
index. Questions are streamed: once to check prompt lengths and once for sampling. In memory are one shard and the digests of finished
questions.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.chunks import ahead, chunks
from pipeline.config import ModelSource, Prompts, RunConfig, Sampling
from pipeline.digests import digest, digests
from pipeline.errors import ArtifactError
from pipeline.fields import Frozen, identity, runtime
from pipeline.generation import Completion, Decoding, Engine, open_engine
from pipeline.generation.arrived import committed
from pipeline.given import check as check_given
from pipeline.given import content as given_content
from pipeline.grading import Outcome
from pipeline.judge import RULE, judge_prompt, replies, verdict
from pipeline.models import check_model, load_tokenizer, model_content
from pipeline.perspectives import Perspective, perspectives_of, without_forms
from pipeline.prompts import as_asked, check_prompts, student_prompt, teacher_prompt
from pipeline.questions import Question, from_table
from pipeline.rationales import spoken
from stages.lengths import check_lengths, check_trainable
from stages.progress import Progress
from stages.tally import COUNTED, tally
from storage.artifact import Artifact, Draft
from storage.mirror import DERIVED

NAME: Final = "sampling"
VERSION: Final = 3
INPUTS: Final = ("questions",)

SCHEMA: Final = pa.schema(
    [
        ("question_id", pa.string()),
        ("perspective", pa.string()),
        ("sample_index", pa.int32()),
        ("seed", pa.int64()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("cumulative_logprob", pa.float64()),
        ("outcome", pa.string()),
        ("answer", pa.string()),
        ("rule", pa.string()),
        ("gold", pa.string()),
    ]
)
JUDGED: Final = pa.schema([*SCHEMA, ("judged", pa.string()), ("verdict", pa.string())])
"""The schema with a judge: its reply and its verdict, if it was asked."""


class Config(Frozen):
    """Teacher, perspectives, prompts and decoding."""

    teacher: ModelSource = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    sampling: Sampling = identity()
    seed: int = identity()
    student: ModelSource | None = runtime(None)
    """The student to be trained. No sample depends on it, but a question that is too long to train on is rejected before sampling."""
    student_length: int = runtime(0)


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    if run.sampling.rationales is not None:  # no model is asked, so the samples depend on no model or prompt
        given = Sampling(rationales=run.sampling.rationales, questions_per_shard=run.sampling.questions_per_shard)
        nobody = ModelSource(imported=True)
        perspectives = without_forms(perspectives_of(run))
        return Config(teacher=nobody, perspectives=perspectives, prompts=Prompts(), sampling=given, seed=run.seed)
    return Config(
        teacher=run.teacher,
        perspectives=without_forms(as_asked(run.prompts, perspectives_of(run))),
        prompts=run.prompts.of_rationales(),
        sampling=run.sampling,
        seed=run.seed,
        student=run.student,
        student_length=run.training.max_length,
    )


def outside(config: Config) -> dict[str, str]:
    """Content digest of a local teacher or of imported rationales; a served model is identified by its name only."""
    if config.sampling.rationales is not None:
        return {"rationales": given_content(config.sampling.rationales)}
    judge = config.sampling.judge
    judged = {} if judge is None or judge.engine.kind == "openai" else {"judge": model_content(judge.model)}
    return {"teacher": model_content(config.teacher), **judged} if config.sampling.engine.kind != "openai" else judged


def check(config: Config) -> None:
    """Check model folder and templates, or the first imported rationales."""
    if config.sampling.rationales is not None:
        check_given(config.sampling.rationales, tuple(item.name for item in config.perspectives))
        return
    if config.sampling.engine.kind != "openai":
        check_model(config.teacher, "teacher")
    check_prompts(config.prompts, config.perspectives)
    judge = config.sampling.judge
    if judge is not None:
        judge_prompt(judge, Question(id="probe", question="?", answer="", answer_type="text"), "?")
        if judge.engine.kind != "openai":
            check_model(judge.model, "sampling.judge.model")


def sample_seed(seed: int, question_id: str, perspective: str, index: int) -> int:
    """A 31-bit seed from run seed, question, perspective and sample index."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{perspective}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def graded_row(question: Question, perspective: str, index: int, seed: int, completion: Completion) -> dict[str, Any]:
    """One graded sample as a row of `SCHEMA`."""
    graded = question.grade(completion.text, completion.finish_reason == "stop")
    return {
        "question_id": question.id,
        "perspective": perspective,
        "sample_index": index,
        "seed": seed,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "cumulative_logprob": completion.cumulative_logprob,
        "outcome": graded.outcome.value,
        "answer": graded.answer,
        "rule": graded.rule,
        "gold": question.answer,
    }


def _sample(engine: Engine, config: Config, asked: list[tuple[Question, Perspective, int]]) -> Iterator[dict[str, Any]]:
    prompts = [teacher_prompt(config.prompts, question, perspective) for question, perspective, _ in asked]
    seeds = [sample_seed(config.seed, question.id, item.name, index) for question, item, index in asked]
    settings = config.sampling
    completions = engine.generate(
        prompts, seeds, Decoding(settings.temperature, settings.top_p, settings.max_tokens, likelihood=True)
    )
    for (question, item, index), seed, completion in zip(asked, seeds, completions, strict=True):
        yield graded_row(question, item.name, index, seed, completion)


def _wave(engines: Engines, config: Config, asked: list[tuple[Question, Perspective, int]]) -> list[dict[str, Any]]:
    """Sample one batch of requests. The judge is asked about samples that have text but no parsable answer."""
    rows = list(_sample(engines.teacher, config, asked))
    settings = config.sampling.judge
    if settings is None or engines.judge is None:
        return rows
    open_rows = [
        (row, question, said)
        for row, (question, _, _) in zip(rows, asked, strict=True)
        if row["outcome"] == Outcome.UNPARSED and (said := spoken(row["text"]).strip())
    ]
    found = replies(engines.judge, settings, [(question, said) for _, question, said in open_rows])
    for (row, _, _), reply in zip(open_rows, found, strict=True):
        row |= _judged(reply)
    return rows


def _judged(reply: Completion) -> dict[str, str]:
    """The columns that the judge's reply adds to a sample's row."""
    if reply.finish_reason == "too_long":
        return {"verdict": reply.finish_reason}
    found = verdict(reply.text)
    if found is None:
        return {"judged": reply.text, "verdict": "unreadable"}
    return {"judged": reply.text, "verdict": found.value, "outcome": found.value, "rule": RULE}


def _shard(engines: Engines, config: Config, questions: list[Question]) -> list[dict[str, Any]]:
    """All samples of a chunk of questions: first `samples` per perspective, then further tries while none is correct."""
    settings = config.sampling
    every = [(question, item) for question in questions for item in config.perspectives]
    rows = _wave(engines, config, [(q, p, i) for q, p in every for i in range(settings.samples)])
    for index in range(settings.samples, settings.tries):
        right = {(row["question_id"], row["perspective"]) for row in rows if row["outcome"] == Outcome.CORRECT}
        again = [(q, p, index) for q, p in every if (q.id, p.name) not in right]
        if not again:
            break
        rows += _wave(engines, config, again)
    order = {question.id: number for number, question in enumerate(questions)}
    return sorted(rows, key=lambda row: order[row["question_id"]])


class Engines(NamedTuple):
    """The teacher's engine, and the judge's if configured."""

    teacher: Engine
    judge: Engine | None = None


def shards_of(
    engines: Engines, config: Config, questions: Iterable[Question]
) -> Iterator[tuple[list[Question], list[dict[str, Any]]]]:
    """Yield each shard's questions and all their samples; the next shard is sampled while the caller commits one."""
    return ahead(lambda chunk: _shard(engines, config, chunk), chunks(questions, config.sampling.questions_per_shard))


@contextmanager
def _judge(config: Config, arrived: Path) -> Iterator[Engine | None]:
    settings = config.sampling.judge
    if settings is None:
        yield None
        return
    with open_engine(settings.engine, settings.model, arrived) as engine:
        yield engine


def _verdicts(out: Draft) -> dict[str, int]:
    """Number of each verdict; a reply without a verdict counts as `unreadable`, a sample over the judge's context as `too_long`."""
    counts = Counter[str]()
    for shard in out.shards("samples", ["verdict"]):
        counts.update(shard["verdict"].drop_null().to_pylist())
    return dict(counts)


def training_questions(questions: Artifact) -> Iterator[Question]:
    """The training questions, in order."""
    for batch in questions.batches("questions", rows=1024):
        yield from from_table(batch.filter(pc.equal(batch["role"], "train")))


def finished_questions(shards: Iterable[pa.Table | pa.RecordBatch]) -> set[int]:
    """Digests of the questions in some shards."""
    finished: set[int] = set()
    for shard in shards:
        finished |= digests(shard["question_id"].unique().to_pylist())
    return finished


def arrived_file(out: Draft, model: str) -> Path:
    """Journal of a server's answers whose shard is not committed yet; on this machine only, also under a remote root."""
    return out.scratch / DERIVED / f"arrived-{model}.jsonl"


def _check_prompts(config: Config, questions: Callable[[], Iterable[Question]]) -> None:
    """Check prompt lengths before the teacher is loaded, except for servers, whose tokenizers are not available.

    `questions` returns a new stream at each call.
    """
    settings, prompts = config.sampling, config.prompts
    if settings.engine.kind != "openai":
        asked = (
            (question.id, teacher_prompt(prompts, question, item)) for question in questions() for item in config.perspectives
        )
        tokenizer, turns = load_tokenizer(config.teacher), config.teacher.dialogue
        check_lengths(tokenizer, asked, turns, settings.max_tokens, settings.engine.max_context)
    if config.student is not None:
        shown = ((question.id, student_prompt(prompts, question)) for question in questions())
        check_trainable(config.student, shown, config.student_length)
    judge = settings.judge
    if judge is not None and judge.engine.kind != "openai":
        # The sample does not exist yet, so room is reserved for it: max_tokens, assuming that both tokenizers give similar counts.
        # A sample that still needs more is not judged.
        bare = ((question.id, judge_prompt(judge, question, "")) for question in questions())
        room, limit = settings.max_tokens + judge.max_tokens, judge.engine.max_context
        check_lengths(load_tokenizer(judge.model), bare, judge.model.dialogue, room, limit, "its judge prompt")


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Sample the questions that no shard contains."""
    questions, settings = inputs["questions"], config.sampling
    if settings.rationales is not None:
        from stages.given import bring_in

        return bring_in(config, settings.rationales, questions, out, progress)
    finished = finished_questions(out.shards("samples", ["question_id"]))

    def missing() -> Iterator[Question]:
        return (question for question in training_questions(questions) if digest(question.id) not in finished)

    _check_prompts(config, missing)
    total = questions.summary["train"]
    progress.start("teacher's rationales", total, "questions", len(finished))
    tokens, seconds = 0, 0.0
    if len(finished) < total:
        arrived, judged = arrived_file(out, "teacher"), arrived_file(out, "judge")
        schema = SCHEMA if settings.judge is None else JUDGED
        with (
            open_engine(settings.engine, config.teacher, arrived) as teacher,
            _judge(config, judged) as judge,
        ):
            began = time.monotonic()
            for chunk, rows in shards_of(Engines(teacher, judge), config, missing()):
                out.write_shard("samples", pa.Table.from_pylist(rows, schema=schema))
                committed(arrived)
                committed(judged)
                seconds = time.monotonic() - began
                tokens += sum(row["completion_tokens"] for row in rows)
                progress.advance(len(chunk), f"{tokens / seconds:,.0f} tokens/s")
    summary = tally(out.shards("samples", COUNTED), [item.name for item in config.perspectives], out.folder)
    if summary["questions"] != total:
        raise ArtifactError(f"sampling: {summary['questions']} of {total} questions have samples; run it again")
    judged_by_model = {} if settings.judge is None else {"judged": _verdicts(out)}
    return {**summary, **judged_by_model, "tokens_per_second": round(tokens / seconds, 1) if seconds else None}


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
