"""The script for GPUs runs wherever torch and transformers are; a small shape shows it on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "gpu_bench.py"


def test_it_times_packed_rows_beside_padded_ones() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--shape",
        "tiny",
        "--questions",
        "2",
        "--prompt",
        "16",
        "--rationale",
        "16",
        "--repeats",
        "2",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {"padded", "rows"} <= found["forms"].keys()
    assert found["forms"]["padded"]["times_padded"] == pytest.approx(1)
    assert all(form["seconds"] > 0 for form in found["forms"].values())


def test_it_needs_none_of_the_other_packages() -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import gpu_bench\n"
        "print(sorted({'pydantic', 'deepspeed', 'vllm', 'prefect', 'orjson', 'trl'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    assert said.strip() == "[]"
