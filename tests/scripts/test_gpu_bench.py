"""GPU benchmark script, tested on a CPU with a small shape; it needs only torch and transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.runs import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "gpu_bench.py"
SMALL = ("--shapes", "tiny", "--questions", "2", "--tokens", "32", "--repeats", "2")


def ran(*arguments: str, before: str = "") -> list[str]:
    """Lines that the script prints; the code in `before` may patch it first."""
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu_bench, gpu_trl; {before}\ngpu_bench.main()"
    command = [sys.executable, "-c", code, *SMALL, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout.splitlines()


def rows_of(lines: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["ratio"], row["form"]): row for row in json.loads(lines[-1])["rows"]}


def test_one_call_times_packed_and_padded_rows_at_both_ratios() -> None:
    command = [sys.executable, str(SCRIPT), *SMALL, "--forms", "padded", "rows"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = rows_of(lines)
    assert list(rows) == [(ratio, form) for ratio in ("1:1", "1:3") for form in ("padded", "rows")]
    assert [json.loads(line) for line in lines[:4]] == list(rows.values())
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["host_ms"] > 0
    assert rows["1:1", "padded"]["times_padded"] == pytest.approx(1)
    assert any(line.startswith("tiny  1:3    rows") for line in lines)


@pytest.fixture(scope="module")
def troubled() -> dict[str, dict[str, Any]]:
    """Rows by form, where one form fails, TRL is missing and batches are slow to build."""
    before = (
        "import time; make = gpu_bench.batch_of; gpu_bench.batch_of = lambda *some: (time.sleep(0.5), make(*some))[1]\n"
        "gpu_bench.ATTENTION['padded'] = 'no such attention'; gpu_trl.is_there = lambda: False"
    )
    rows = rows_of(ran("--forms", "padded", "TRL, padding", "rows", "--ratios", "1:1", before=before))
    return {form: row for (_, form), row in rows.items()}


def test_a_failing_form_is_reported_and_the_others_continue(troubled: dict[str, dict[str, Any]]) -> None:
    assert "no such attention" in troubled["padded"]["error"]
    assert troubled["TRL, padding"]["error"] == "TRL is not installed"
    assert troubled["rows"]["tokens_a_second"] > 0
    assert troubled["rows"]["times_padded"] is None


def test_the_time_to_build_a_batch_is_not_part_of_a_step(troubled: dict[str, dict[str, Any]]) -> None:
    assert troubled["rows"]["host_ms"] > 500
    assert troubled["rows"]["seconds"] < 0.4


def test_no_form_starts_after_the_time_limit() -> None:
    rows = rows_of(ran("--forms", "padded", "rows", "--minutes", "0"))
    assert all("no time left; raise --minutes" in row["error"] for row in rows.values())


def test_a_single_trl_step_can_be_timed() -> None:
    pytest.importorskip("trl")
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu_bench, gpu_trl, gpu_work\n"
        "work = gpu_work.make_work(1, 8, 8, 512, 0)\n"
        "print(gpu_trl.trl_seconds([work], gpu_work.SHAPES['tiny'], True, 3)[0])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    assert float(said.splitlines()[-1]) > 0


def test_the_script_needs_no_other_package() -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import gpu_bench\n"
        "print(sorted({'pydantic', 'deepspeed', 'vllm', 'prefect', 'orjson', 'trl'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    assert said.strip() == "[]"
