"""A few steps under every ZeRO stage, precision, offload and LoRA: the same losses, and weights that move.

On one card, or as a rank of torch's launcher on several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.distributed as dist

from pipeline.config.training import Lora
from pipeline.student.token_losses import DTYPES
from pipeline.training.step import train_step
from scripts.gpu.part import Options, attempt, options, report
from scripts.gpu.students import ATTENTION, NOWHERE, Shape, copy_of, set_of, student_of
from stages.speed.training import config_of, join_alone
from stages.training.rank import engine_of, join, start_training_state

SHAPE: Final = Shape(256, 512, 4, 4, 2, 1024, 4, 128)
SMALL: Final = Shape(32, 48, 2, 2, 1, 256, 2, 24)
STEPS: Final = 4
CLOSE: Final = {"fp32": 2e-3, "bf16": 3e-2}
"""Largest relative difference of the losses after some steps from those in fp32 without ZeRO."""


def _cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every combination that a configuration allows; `few` leaves out offloading under stages above the least one."""
    for lora in (False, True):
        for precision, stages in (("fp32", (0, 1, 2, 3)), ("bf16", (1, 2, 3))):
            for stage in stages:
                for offload, least in (("none", 0), ("optimizer", 1), ("all", 3)):
                    if stage >= least and (stage in (least, 3) or not few):
                        yield {"zero_stage": stage, "precision": precision, "offload": offload, "lora": lora}


def _losses(given: Options, shape: Shape, case: dict[str, Any], ranks: int) -> list[float]:
    size, rate = max(1, shape.questions // 2 // ranks), 2e-2 if case["lora"] else 1e-3
    fields = {
        **case, "ranks": ranks, "lora": Lora(rank=4, alpha=8) if case["lora"] else None, "questions_per_step": shape.questions,
        "questions_per_micro_batch": size, "learning_rate": rate, "metanet_rate": 1e-4,
    }  # fmt: skip
    config = config_of(NOWHERE, fields)
    (join if ranks > 1 else join_alone)(config.training)
    source = student_of(shape, None, torch.device("cpu"), torch.float32)
    dtype = DTYPES[config.training.precision]
    device = torch.device("cuda", torch.cuda.current_device()) if given.cuda else given.device
    student = copy_of(source, shape, ATTENTION[config.training.packing], device, dtype)
    state = start_training_state(
        config, set_of(shape, (1, 1), shape.questions * 2), engine_of(config.training, student, 0), None
    )
    return [train_step(state, step)["loss"] for step in range(STEPS)]


def main() -> None:
    """Compare every case with fp32 without ZeRO, with and without LoRA; `--more every` leaves none out."""
    given, ranks, main_rank = options(), int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    shape = SMALL if given.tiny else SHAPE
    expected: dict[bool, list[float]] = {}
    for case in _cases(given.tiny and given.more != "every"):
        name = f"zero {case['zero_stage']} {case['precision']} offload {case['offload']}{' LoRA' if case['lora'] else ''}"
        with attempt(name):
            losses = _losses(given, shape, case, ranks)
            base = expected.setdefault(case["lora"], losses)
            off = max(abs(mine - other) / other for mine, other in zip(losses, base, strict=True))
            good = off < CLOSE[case["precision"]] and losses[-1] < losses[0] and all(map(torch.isfinite, torch.tensor(losses)))
            if main_rank:
                report(name, good, off=off, first=losses[0], last=losses[-1])
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
