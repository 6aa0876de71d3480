"""What a part of the check is given, and how it reports.

A part is `python -m scripts.gpu.NAME OPTIONS`. It prints a JSON object per measured case, on a line of its own, as soon as it has it; other
lines are log. A case that fails is a row with an error, and the part goes on with the next.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

BEGAN: Final = time.monotonic()


class Options(NamedTuple):
    """`seconds` is the part's time, from its start; `folder` is empty and its own; `more` is the part's own argument."""

    device: torch.device
    shapes: list[str]
    seconds: float
    folder: Path
    more: str

    @property
    def cuda(self) -> bool:
        """Whether the part runs on a GPU."""
        return self.device.type == "cuda"

    @property
    def tiny(self) -> bool:
        """Whether only the path is tested, not the speed."""
        return self.shapes == ["tiny"]

    def left(self) -> float:
        """Seconds left."""
        return self.seconds - (time.monotonic() - BEGAN)


def options() -> Options:
    """Read the part's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--shapes", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--more", default="")
    given = parser.parse_args()
    torch.set_num_threads(1 if given.device == "cpu" else 4)
    return Options(torch.device(given.device), given.shapes, given.seconds, given.folder, given.more)


def report(case: str, good: bool | None = None, **figures: Any) -> None:
    """Print a row: `good` says whether a goal or promise was met, None where there is none."""
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"case": case, "good": good, "figures": rounded}), flush=True)


@contextmanager
def attempt(case: str) -> Iterator[None]:
    """Report an exception as the case's row, and go on; the GPU's memory is freed."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any failure (memory, compiler, library) must not stop the other cases
        said = str(error).strip().splitlines() or [""]
        report(case, False, error=f"{type(error).__name__}: {said[0][:300]}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
