"""What the teacher's distributions cost: a step with soft targets against one without, and the parts of a step on own texts.

The step is the product's own, with uniform weights. The parts are what one round of on-policy distillation does for one step: the student
writes, a teacher of the next larger shape scores every token, and the divergence is minimised. Weights are random, so that texts have full
length.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Final

import torch

from pipeline.config.models import LocalModel
from pipeline.config.soft_targets import SoftTargets
from pipeline.model_folders import load_tokenizer
from pipeline.training.step import TrainingState
from pipeline.training.training_set import SoftTargetTable, TrainingSet
from scripts.gpu.part import Options, attempt, options, report, wait
from scripts.gpu.speed import RATIOS, config, measure, state_of
from scripts.gpu.students import SHAPES, set_of, student_of
from stages.speed.memory import LIKELY
from stages.speed.own_texts import STUDENT, parts
from stages.speed.workload import random_targets

GOAL: Final = 1.15
"""A step with soft targets relative to one without."""
TEACHER: Final = {"0.5b": "1.5b", "1.5b": "1.5b", "tiny": "tiny"}
"""The teacher's shape, by the student's."""
TEXTS: Final = 16
WRITTEN: Final = 256
"""Tokens of an own text."""


def with_soft_targets(data: TrainingSet, vocabulary: int) -> TrainingSet:
    """The set with random soft targets for every rationale."""
    lengths_NK = torch.stack([data.lengths(torch.tensor([n]))[0] for n in range(len(data))]).long()
    offsets_NK = (lengths_NK.flatten().cumsum(0) - lengths_NK.flatten()).view(lengths_NK.shape)
    return replace(data, soft=SoftTargetTable(*random_targets(int(lengths_NK.sum()), LIKELY, vocabulary), offsets_NK))


def soft_step(given: Options, name: str) -> None:
    """Report the step's time with soft targets relative to the time without."""
    shape, took = SHAPES[name], dict[bool, float]()
    state = state_of(given, shape, "rows")
    data = set_of(shape, RATIOS[1], len(state.data))
    for soft in (False, True):
        training = config(given, shape, "rows", "uniform").training
        state.config = training.model_copy(update={"soft_targets": SoftTargets(share=0.5) if soft else None})
        state.data = with_soft_targets(data, shape.vocabulary) if soft else data
        took[soft] = statistics.median(log["seconds"] for log in measure(given, state, until=5))
    ratio = took[True] / took[False]
    report(
        f"{name} soft targets",
        ratio <= GOAL if given.cuda else None,
        x=ratio,
        ms=1000 * took[True],
        ms_without=1000 * took[False],
    )
    own_texts(given, name, state)


def own_texts(given: Options, name: str, state: TrainingState) -> None:
    """Report the seconds of writing, scoring and learning from a step's own texts."""
    texts, written = (2, 8) if given.tiny else (TEXTS, WRITTEN)
    dtype = torch.bfloat16 if given.cuda else torch.float32
    teacher = student_of(SHAPES[TEACHER[name]], None, given.device, dtype).eval()
    tokenizer = load_tokenizer(LocalModel(path=STUDENT, chat=False))  # the models' vocabularies contain its own
    figures: dict[str, float] = {}
    sides = parts(state.engine, teacher, tokenizer, ["Question: " + "0" * 64] * texts, written)
    for work in sides.values():
        work()  # loads kernels, and gives the next part its input
    for part, work in sides.items():
        wait(given.device)
        began = time.perf_counter()
        work()
        wait(given.device)
        figures[f"{part}_s"] = time.perf_counter() - began
    report(
        f"{name} own texts",
        None,
        **figures,
        texts=texts,
        tokens_each=written,
        written_s=round(texts * written / figures["writing_s"]),
    )


def main() -> None:
    """Measure the shapes."""
    given = options()
    for name in given.shapes:
        with attempt(name):
            soft_step(given, name)


if __name__ == "__main__":
    main()
