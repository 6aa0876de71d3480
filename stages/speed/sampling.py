"""Sampling speed: the sampling stage, including grading and commit, against bare vLLM on the same requests in the same engine.

The rate is in tokens per second, with the same prompts and seeds. A third side waits for every shard before it requests the next one. Two
more sides ask long questions with short answers, with the question before or after the perspective: a prefix shared by all perspectives is
computed once. These two generate different texts, so their rate is in requests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.config.prompts import Prompts
from pipeline.config.sampling import Sampling
from pipeline.generation.engine import Decoding, Engine, sampling_decoding
from pipeline.generation.open_engine import open_engine
from pipeline.perspectives.perspective import Perspective, load_perspectives
from pipeline.prefetch import chunks
from pipeline.prompt_rendering import render, teacher_prompt
from pipeline.questions.procedural import ID_FAMILIES, ask, distinct, solve
from pipeline.questions.question import Question
from pipeline.text_digests import seed_of
from stages.sampling.samples import SCHEMA, Engines, shards_of
from stages.sampling.stage_config import Config
from stages.speed.timing import Once, Ratio, rates, ratio
from storage.store import Store

TEACHER: Final = Path(__file__).parents[2] / "pipeline" / "miniature" / "models" / "teacher"
PROMPTS: Final = Prompts(
    question="Question: {{ question }}\nSolution:\n",
    perspective="Perspective: {{ perspective }}\nQuestion: {{ question }}\nSolution:\n",
)
_TOKENS: Final = 160
_QUESTION_FIRST: Final = "Question: {{ question }}\nPerspective: {{ perspective }}\nSolution:\n"
_LONG: Final = 12
"""Number of problems that are joined into one long question."""
_SHORT_ANSWER: Final = 16


def _questions(number: int) -> list[Question]:
    each = number // len(ID_FAMILIES)
    found = [problem for family in ID_FAMILIES for problem in distinct(family, "train", each, seed=0)]
    return [Question(f"q/{index:05d}", ask(problem), solve(problem), "text") for index, problem in enumerate(found)]


def _orders(engine: Engine, asked: list[Question], perspectives: Sequence[Perspective]) -> dict[str, Once]:
    """Sides that ask every perspective of every long question, with the question or the perspective first."""
    texts = ["\n".join(item.text for item in some) for some in chunks(asked, _LONG)]
    decoding = Decoding(0.7, 1.0, _SHORT_ANSWER)

    def once(template: str) -> float:
        prompts = [
            render(template, question=text, perspective=item.called or item.name) for text in texts for item in perspectives
        ]
        return len(engine.generate(prompts, range(len(prompts)), decoding))

    return {
        "question first": lambda: once(_QUESTION_FIRST),
        "perspective first": lambda: once(PROMPTS.perspective),
    }


def measure(folder: Path, questions: int, repeats: int, say: Callable[[str], None]) -> dict[str, Ratio]:
    """Ratios of the sampling stage to bare vLLM, by name, for the miniature teacher."""
    settings = Sampling(
        engine=EngineConfig(kind="vllm", dtype="float32", max_context=512, kv_cache_gib=0.5), samples=1, tries=1, temperature=0.7,
        top_p=1.0, max_tokens=_TOKENS, questions_per_shard=64,
    )  # fmt: skip
    config = Config(
        teacher=LocalModel(path=TEACHER, chat=False),
        perspectives=load_perspectives(None),
        prompts=PROMPTS,
        sampling=settings,
        seed=0,
    )
    asked = _questions(questions)
    decoding = sampling_decoding(settings)
    pairs = [(question, item) for question in asked for item in config.perspectives]
    with open_engine(settings.engine, config.teacher) as engine:

        def bare() -> float:
            prompts = [teacher_prompt(PROMPTS, question.text, item) for question, item in pairs]
            seeds = [seed_of(0, question.id, item.name, 0) for question, item in pairs]
            return sum(completion.completion_tokens for completion in engine.generate(prompts, seeds, decoding))

        def stage(at_once: int) -> float:
            shutil.rmtree(folder / "store", ignore_errors=True)
            tokens = 0
            with Store(folder / "store").draft("sampling", "0" * 16) as draft:
                for some in chunks(asked, at_once):
                    for _, rows in shards_of(Engines(engine), config, some):
                        draft.write_shard("samples", pa.Table.from_pylist(rows, schema=SCHEMA))
                        tokens += sum(row["completion_tokens"] for row in rows)
            return tokens

        waiting = settings.questions_per_shard
        sides: dict[str, Once] = {"bare": bare, "stage": lambda: stage(len(asked)), "waiting": lambda: stage(waiting)}
        found = rates(sides, repeats, say)
        found |= rates(_orders(engine, asked, config.perspectives), repeats, say)
    return {
        "question first / perspective first, long questions": ratio(found["question first"], found["perspective first"]),
        "sampling stage / bare vLLM": ratio(found["stage"], found["bare"]),
        "the next shard under way / one after the other": ratio(found["stage"], found["waiting"]),
    }
