"""What the machine is: versions, card, compilers, and the two ceilings of its arithmetic and memory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

import torch

from scripts.gpu.part import Options, attempt, options, report, wait

WORTH_NAMING: Final = (
    "transformers", "triton", "deepspeed", "pydantic", "pyarrow", "datasets", "numpy", "peft", "accelerate", "trl", "liger-kernel",
    "flash-attn", "safetensors", "tokenizers", "scipy", "scikit-learn", "vllm",
)  # fmt: skip


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "missing"
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return lines[-1] if lines else "silent"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of seven runs after three."""
    found = []
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - began)
    return sorted(found[3:])[3]


def _ceilings(given: Options) -> None:
    size = 8192 if given.cuda else 256
    dtype = torch.bfloat16 if given.cuda else torch.float32
    left, right = (torch.randn(size, size, device=given.device, dtype=dtype) for _ in range(2))
    report("matrix product", None, tflops=2 * size**3 / _seconds(lambda: left @ right, given.device) / 1e12, size=size)
    source = torch.randn(size**2 * 4, device=given.device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), given.device)
    report("copy", gb_a_second=2 * source.numel() * 4 / seconds / 1e9)


def main() -> None:
    """Report the machine."""
    given = options()
    versions: dict[str, Any] = {name: _version(name) for name in WORTH_NAMING}
    report("software", python=platform.python_version(), torch=torch.__version__, **versions)
    report("host", cores=os.cpu_count(), gcc=_said("gcc", "-dumpfullversion"), nvcc=_said("nvcc", "--version"))
    if given.cuda:
        card = torch.cuda.get_device_properties(given.device)
        driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        report("card", name=card.name, gib=card.total_memory / 2**30, processors=card.multi_processor_count, driver=driver)
    with attempt("ceilings"):
        _ceilings(given)


if __name__ == "__main__":
    main()
