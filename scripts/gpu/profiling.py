"""Where a step's time goes: torch's profile of one step for every packing, and the number of times that the host waits for the card."""

from __future__ import annotations

import time
import warnings
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.training.step import train_step
from scripts.gpu.part import Options, attempt, options, report, wait
from scripts.gpu.speed import WARM, config, state_of
from scripts.gpu.students import SHAPES

KINDS: Final = {
    "matrix": ("gemm", "cutlass", "cublas", "aten::mm", "aten::addmm", "nvjet"),
    "attention": ("flash", "fmha", "attention", "sdpa", "softmax", "triton_tem"),
    "optimiser": ("adam", "multi_tensor", "foreach"),
    "gather": ("index", "gather", "scatter", "embedding"),
    "copy": ("memcpy", "copy", "memset"),
}
"""Kinds of kernels by parts of their names; the first that fits counts."""


def _kind(name: str) -> str:
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in low for part in parts)), "other")


def _waits(state: Any) -> int | None:
    """How often a step makes the host wait, counted by torch; None without a card."""
    if state.engine.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_step(state, WARM + 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(item.message) for item in caught)


def _profile(given: Options, name: str, packing: str) -> None:
    state = state_of(given, SHAPES[name], packing)
    state.config = config(given, SHAPES[name], packing, "L_cons").training
    for step in range(WARM):
        train_step(state, step)
    waits = _waits(state)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if given.cuda else [])]
    wait(given.device)
    began = time.perf_counter()
    with profile(activities=kinds) as found:
        train_step(state, WARM)
        wait(given.device)
    wall = time.perf_counter() - began
    field = "self_device_time_total" if given.cuda else "self_cpu_time_total"
    events = found.key_averages()
    spent: dict[str, float] = {}
    for event in events:
        # On a card only kernels count: an operator's own device time is that of its kernels, once more.
        if not given.cuda or event.device_type.name == "CUDA":
            spent[_kind(event.key)] = spent.get(_kind(event.key), 0.0) + getattr(event, field) / 1e6
    total = sum(spent.values())
    shares = {kind: seconds / total for kind, seconds in sorted(spent.items(), key=lambda item: -item[1])}
    report(f"{name} L_cons {packing}", None, wall_ms=1000 * wall, busy=total / wall, waits=waits, **shares)
    table = events.table(sort_by=field, row_limit=25, max_name_column_width=70)
    print(table, flush=True)  # into the log


def main() -> None:
    """Profile the first shape in every packing."""
    given = options()
    for packing in ("none", "rows", *(["flex"] if given.cuda else [])):
        with attempt(f"{given.shapes[0]} {packing}"):
            _profile(given, given.shapes[0], packing)


if __name__ == "__main__":
    main()
