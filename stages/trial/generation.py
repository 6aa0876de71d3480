"""Tries a generating model: opens its engine as the stage does, and lets it answer one prompt: `python -m stages.trial.generation ...`.

The prompt is the stage's own: of the first training question that needs no hub, otherwise of a fixed question. The engine is the
configured one, except that a server is asked at once, never in a batch, and gets less time for retries: a trial is to say that a server is
down, not to wait until it is up.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final, NamedTuple

from pipeline.config.engines import EngineConfig
from pipeline.config.models import HubModel, LocalModel, Teacher
from pipeline.config.run import RunConfig
from pipeline.errors import MindError
from pipeline.generation.engine import Decoding, sampling_decoding
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import student_prompt, teacher_prompt
from pipeline.questions.load import load
from pipeline.questions.named_benchmarks import NamedSource
from pipeline.questions.question import Question
from pipeline.questions.sources import HubSource
from stages.sampling.stage_config import config_of as sampling_config
from stages.shared.prompt_lengths import check_lengths
from stages.trial.outcome import Outcome, arguments_of, attempt

TOKENS: Final = 64
"""Most tokens that are generated."""
_SHOWN: Final = 60
"""Characters of the text that are shown."""
_RETRY_SECONDS: Final = 20.0
_FIXED: Final = Question(id="fixed", question="What is 12 + 30?", answer="42", answer_type="number")
_ON_LOADING: Final = {
    "vllm": (
        "kind",
        "dtype",
        "max_context",
        "tensor_parallel",
        "replicas",
        "gpu_memory_utilization",
        "kv_cache_gib",
        "max_sequences",
    ),
    "transformers": ("kind", "dtype"),
    "openai": ("kind", "base_url", "served_model"),
}
"""Fields of an engine that decide whether it can be loaded."""


class Asking(NamedTuple):
    """Who is asked what: a model, its engine and the engine's configuration field, the prompt, and the decoding as configured."""

    model: Teacher
    engine: EngineConfig
    field: str
    prompt: str
    decoding: Decoding


def loads_alike(one: EngineConfig, other: EngineConfig) -> bool:
    """Whether one engine can be loaded wherever the other can."""
    return all(getattr(one, name) == getattr(other, name) for name in _ON_LOADING[one.kind])


def question_of(run: RunConfig) -> Question:
    """The first training question of the sources on this machine, or a fixed question if none of them can be read."""
    for source in run.questions.sources()[0]:
        if isinstance(source, HubSource | NamedSource) and source.folder is None:
            continue
        try:
            found = next(load(source), None)
        except (MindError, OSError):  # the stage `questions` says what is wrong with a source; here the model is tried
            continue
        if found is not None:
            return found
    return _FIXED


def asking_of(run: RunConfig, stage: str, question: Question) -> Asking:
    """What `stage` (sampling, synthesis or evaluation) asks its model about a question."""
    if stage == "sampling":
        config, settings = sampling_config(run), run.sampling
        prompt = teacher_prompt(config.prompts, question.text, config.perspectives[0])
        return Asking(run.teacher, settings.engine, "sampling.engine", prompt, sampling_decoding(settings))
    prompt = student_prompt(run.prompts, question)
    if stage == "synthesis":
        decoding = Decoding(run.synthesis.attempt_temperature, 1.0, run.synthesis.max_tokens)
        return Asking(run.student, run.synthesis.engine, "synthesis.engine", prompt, decoding)
    assert stage == "evaluation", stage
    decoding = Decoding(0.0, 1.0, run.evaluation.max_tokens)
    return Asking(run.student, run.evaluation.engine, "evaluation.engine", prompt, decoding)


def ask(run: RunConfig, stage: str) -> Outcome:
    """Load the model and ask it."""
    question = question_of(run)
    who = asking_of(run, stage, question)
    engine, model = who.engine, who.model
    if engine.in_process and isinstance(model, LocalModel | HubModel):
        # The stage reserves room for a whole answer, so a prompt that leaves none is rejected here too.
        room, limit = who.decoding.max_tokens, engine.max_context
        check_lengths(load_tokenizer(model), [(question.id, who.prompt)], model.dialogue, room, limit)
    engine = engine.model_copy(update={"retry_seconds": min(engine.retry_seconds, _RETRY_SECONDS), "batches": False})
    few = replace(who.decoding, max_tokens=min(TOKENS, who.decoding.max_tokens))
    began = time.monotonic()
    with open_engine(engine, model) as opened:
        loaded = time.monotonic()
        (answer,) = opened.generate([who.prompt], [run.seed], few)
        answered = time.monotonic()
    rate = answer.completion_tokens / max(answered - loaded, 1e-9)
    about = "a fixed question" if question is _FIXED else f"question {question.id!r}"
    text = " ".join(answer.text.split())[:_SHOWN]
    return Outcome(
        f"loaded in {loaded - began:.1f} s; {about}: {answer.completion_tokens} tokens at {rate:,.0f}/s, "
        f"finish reason {answer.finish_reason}: {text!r}"
    )


def remedy_of(stage: str) -> str:
    """What to do about an error that names no remedy itself."""
    role = "teacher" if stage == "sampling" else "student"
    return (
        f"correct {role} or {stage}.engine; if memory ran out, raise its tensor_parallel, or lower gpu_memory_utilization, "
        "max_context or max_sequences"
    )


def main() -> None:
    """Entry point of the process."""
    run, file, stage = arguments_of("generation")
    attempt(lambda: ask(run, stage), file, remedy_of(stage))


if __name__ == "__main__":
    main()
