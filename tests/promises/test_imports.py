from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.runs import REPOSITORY


def test_imports_run_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
    assert "1 kept, 0 broken" in answer.stdout


def test_planning_a_run_loads_no_heavy_library() -> None:
    script = "import sys, stages.chain as c; [c.stage_module(n) for n in c.ORDER]; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {"torch", "vllm", "deepspeed", "prefect", "datasets"}.isdisjoint(answer.stdout.split())
