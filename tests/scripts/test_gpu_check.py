"""The GPU check, run on a CPU in an environment that holds only what a GPU image has and the packages that are carried there."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "gpu_check.py"
TINY = ("--device", "cpu", "--shapes", "tiny", "--no-wheels")
NEWER = {"httpx2", "httpcore2", "truststore"}
"""What the locked huggingface-hub needs in place of httpx; the version in a GPU image may be older."""

Rows = dict[str, dict[str, dict[str, Any]]]


def _names(file: str) -> set[str]:
    lines = (REPOSITORY / "scripts" / "gpu" / file).read_text().splitlines()
    return {name for line in lines if not line.startswith("#") for name in line.split()}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that sees only the allowed packages of this one."""
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    allowed = _names("machine.txt") | _names("carried.txt") | NEWER
    for package in importlib.metadata.distributions():
        if package.metadata["Name"].lower().replace("_", "-") not in allowed:
            continue
        for top in {Path(file).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(package.locate_file(top)))
    return folder / "bin" / "python"


def _check(python: Path, folder: Path, *arguments: str) -> tuple[int, Rows]:
    command = [str(python), str(SCRIPT), *TINY, "--out", str(folder), *arguments]
    code = subprocess.run(command, capture_output=True, text=True, check=False).returncode
    rows: Rows = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["part"], {})[row["case"]] = row
    return code, rows


@pytest.fixture(scope="module")
def checked(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a whole check."""
    parts = ("machine", "miniature-fp32", "packing", "zero", "memory", "profile", "teacher", "long", "speed")
    return _check(python, tmp_path_factory.mktemp("check"), "--only", *parts)[1]


def _errors(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {case: row["figures"]["error"] for case, row in rows.items() if "error" in row["figures"]}


@pytest.mark.soak
@pytest.mark.parametrize("part", ["machine", "miniature-fp32", "packing", "zero", "memory", "profile", "teacher", "long"])
def test_each_part_needs_only_what_the_machine_has_and_what_is_carried(checked: Rows, part: str) -> None:
    assert checked[part]
    assert not _errors(checked[part])
    assert not [case for case, row in checked[part].items() if row["good"] is False]


@pytest.mark.soak
def test_every_form_is_timed_and_only_what_is_not_carried_here_is_missing(checked: Rows) -> None:
    timed = {case for case, row in checked["speed"].items() if "ms" in row["figures"]}
    forms = {
        f"tiny {ratio} {what} {packing}"
        for ratio in ("1:1", "1:3")
        for what in ("uniform", "L_cons", "mind")
        for packing in ("none", "rows")
    }
    assert timed >= forms
    assert all("trl" in error for error in _errors(checked["speed"]).values())


@pytest.mark.soak
def test_the_miniature_is_run_to_its_accuracies(checked: Rows) -> None:
    cases = checked["miniature-fp32"]
    assert {f"{group} {model}" for group in ("id", "ood") for model in ("base", "student", "teacher")} < set(cases)
    assert cases["killed and resumed"]["figures"] == {"off": 0.0, "noise": 0.0}


def test_a_failing_part_costs_no_other(python: Path, tmp_path: Path) -> None:
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    broken = tmp_path / "deepspeed.py"
    broken.write_text("raise ImportError('no deepspeed')")
    hook = site / "broken.pth"
    hook.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    try:
        code, rows = _check(python, tmp_path / "out", "--only", "machine", "packing", "zero")
    finally:
        hook.unlink()
    assert code == 1
    assert "no deepspeed" in rows["zero"]["ended"]["figures"]["error"]
    assert not _errors(rows["machine"])
    assert (tmp_path / "out" / "table.txt").read_text().count("\n") == sum(map(len, rows.values()))


def test_nothing_starts_after_the_time_limit(python: Path, tmp_path: Path) -> None:
    _, rows = _check(python, tmp_path, "--minutes", "0")
    assert {row["not started"]["figures"]["error"] for row in rows.values()} == {"no time left; raise --minutes"}


def test_a_part_is_ended_at_its_time_limit(python: Path, tmp_path: Path) -> None:
    _, rows = _check(python, tmp_path, "--minutes", "0.1", "--only", "miniature-bf16")
    assert rows["miniature-bf16"]["ended"]["figures"]["error"] == "its 6 seconds are up"


def test_without_a_gpu_one_line_says_so() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("use --device cpu --shapes tiny to test the path")
    assert len(done.stderr.strip().splitlines()) == 1
