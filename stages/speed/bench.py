"""Runs the speed comparisons one after the other and reports each beside its target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import ConfigError
from stages.speed.timing import Ratio

WANTED: Final = {
    "packed / padded": "≥ 1",
    "with L_cons, packed / padded": "≥ 2",
    "packed / TRL, padding": "≥ 2",
    "packed / TRL, packing with dense masks": "≥ 1.25",
    "DeepSpeed / plain PyTorch": "≥ 0.9",
    "MIND's step / uniform step, in time": "≤ 1",
    "MetaNet, share of a step": "≤ 0.03",
    "memory of the objective, chunked / whole": "≤ 0.4",
    "memory of the objective with L_cons, chunked / whole": "≤ 0.4",
    "memory of the objective with soft targets, chunked / whole": "≤ 0.4",
    "scores of all texts / sampling them, in time": "≤ 0.1",
    "step with soft targets / without, in time": "≤ 1.15",
    "sampling stage / bare vLLM": "≥ 0.97",
    "question first / perspective first, long questions": "≥ 1.3",
    "vLLM / generate": "≥ 1.2",
    "our vLLM engine / lm-eval's": "≥ 1",
}
Say = Callable[[str], None]
QUESTIONS: Final = {"sampling": 200, "evaluation": 300, "soft-targets": 40}


class SpeedRow(NamedTuple):
    """A comparison: median of the repeats' ratios, their interquartile range, and the target, if any."""

    name: str
    median: float
    low: float
    high: float
    wanted: str


def _row(name: str, found: Ratio | float, where: str = "") -> SpeedRow:
    low_high = found if isinstance(found, Ratio) else Ratio(found, found, found)
    return SpeedRow(f"{name}{where}", *low_high, WANTED.get(name, ""))


def _memory(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import memory

    return [_row(*item) for item in memory.measure(say).items()]


def _sampling(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import sampling

    return [_row(*item) for item in sampling.measure(folder, QUESTIONS["sampling"], repeats, say).items()]


def _evaluation(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import evaluation

    return [_row(*item) for item in evaluation.measure(QUESTIONS["evaluation"], repeats, say).items()]


def _soft_targets(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import soft_targets

    return [_row(*item) for item in soft_targets.measure(QUESTIONS["soft-targets"], repeats, say).items()]


def _on_policy(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import own_texts

    return [_row(*item) for item in own_texts.measure(repeats, say).items()]


def _training(folder: Path, repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    from stages.speed import training

    rows = []
    for case, lengths in training.CASES.items():
        found = training.measure(folder, lengths, repeats, threads, say)
        parts: dict[str, Ratio | float] = {
            **found.ratios,
            "MetaNet, share of a step": found.shares["metanet"],
            "assembling rows, share of a step": found.shares["assembly"],
            "rationales that MIND's step keeps of 8": found.kept,
        }
        rows += [_row(name, value, f" ({case})") for name, value in parts.items()]
    return rows


# Each imports its own libraries when called, since that takes seconds.
SUBJECTS: Final = {
    "memory": _memory,
    "sampling": _sampling,
    "evaluation": _evaluation,
    "training": _training,
    "soft-targets": _soft_targets,
    "on-policy": _on_policy,
}


def bench(what: Sequence[str], repeats: int, threads: int, say: Say) -> list[SpeedRow]:
    """Run the chosen comparisons; `say` receives progress lines.

    Raises:
        ConfigError: an unknown comparison.
    """
    for name in what:
        if name not in SUBJECTS:
            raise ConfigError(f"--what: {name!r} is unknown; use any of {', '.join(SUBJECTS)}")
    rows: list[SpeedRow] = []
    for name in what:
        with tempfile.TemporaryDirectory(prefix="mind-speed-") as folder:
            rows += SUBJECTS[name](Path(folder), repeats, threads, partial(_about, say, name))
    return rows


def _about(say: Say, name: str, line: str) -> None:
    say(f"{name}: {line}")
