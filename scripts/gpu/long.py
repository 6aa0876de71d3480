"""A step on one rationale of 16 thousand tokens, in both packed forms, with and without gradient checkpointing: time and memory."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

import torch

from pipeline.config.training import Consistency, Mixture
from pipeline.student.token_losses import DTYPES
from pipeline.training.step import train_step
from scripts.gpu.part import Options, attempt, options, report, wait
from scripts.gpu.students import ATTENTION, NOWHERE, PERSPECTIVES, SHAPES, student_of
from stages.speed.training import config_of, join_alone
from stages.speed.workload import Lengths, make_set
from stages.training.rank import engine_of, start_training_state

TOKENS: Final = 16_384
"""Of the rationale; the question has a thirty-second of them more."""
WARM: Final = 2
"""Steps that are not counted: FlexAttention is compiled in the first, and again for any length in the second."""
STEPS: Final = WARM + 3


def figures_of(given: Options, name: str, packing: str, checkpointing: bool) -> dict[str, Any]:
    """Milliseconds, rate and peak memory of a step, which trains one rationale of one question; the set has a question for each step."""
    shape, tokens = SHAPES[name], 256 if given.tiny else TOKENS
    torch.compiler.reset()
    settings = config_of(NOWHERE, {
        "mixture": Mixture(weights="uniform", beta=0, draw=1), "consistency": Consistency(weight=0), "questions_per_step": 1,
        "questions_per_micro_batch": 1, "precision": "bf16" if given.cuda else "fp32", "packing": packing, "max_length": 2 * tokens,
        "gradient_checkpointing": checkpointing, "zero_stage": 1,
    })  # fmt: skip
    join_alone(settings.training)
    student = student_of(shape, ATTENTION[packing], given.device, DTYPES[settings.training.precision])
    data = make_set(STEPS, PERSPECTIVES, Lengths(tokens // 32, tokens), shape.vocabulary)
    state = start_training_state(settings, data, engine_of(settings.training, student, 0), None)
    if given.cuda:
        torch.cuda.reset_peak_memory_stats()
    took, trained = list[float](), list[int]()
    for step in range(STEPS):
        wait(given.device)
        began = time.perf_counter()
        trained.append(train_step(state, step)["tokens"])
        wait(given.device)
        took.append(time.perf_counter() - began)
    seconds = statistics.median(took[WARM:])
    memory = {"gib": torch.cuda.max_memory_allocated() / 2**30} if given.cuda else {}
    return {
        "ms": 1000 * seconds,
        "tokens": round(statistics.mean(trained[WARM:])),
        "tokens_s": round(sum(trained[WARM:]) / sum(took[WARM:])),
        **memory,
    }


def main() -> None:
    """Measure the first shape in every form."""
    given = options()
    name = given.shapes[0]
    for packing in ("rows", *(["flex"] if given.cuda else [])):
        for checkpointing in (False, True):
            case = f"{name} {packing}{' checkpointed' if checkpointing else ''}"
            with attempt(case):
                report(case, None, **figures_of(given, name, packing, checkpointing))


if __name__ == "__main__":
    main()
