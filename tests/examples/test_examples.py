"""The literate scripts run as they are, in a folder of their own, and print what their text says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def printed(script: str, where: Path) -> str:
    """What a script prints in this folder."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(
        [sys.executable, EXAMPLES / script],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def steps(folder: Path) -> str:
    return printed("step_by_step.py", folder)


@pytest.mark.e2e
def test_the_demo_step_by_step(steps: str, folder: Path) -> None:
    planned = re.findall(r"^(\w+) +[0-9a-f]{16}  from", steps, re.MULTILINE)
    assert planned == ["questions", "references", "sampling", "synthesis", "training", "evaluation", "report"]
    right = {model: int(share) for model, share in re.findall(r"(base|teacher): (\d+)% right", steps)}
    assert right["base"] < right["teacher"]
    assert len(re.findall(r"^(formal|intuitive|decomposition|planning|analogy|socratic|contrastive|counterfactual) +correct",
                          steps, re.MULTILINE)) == 8  # fmt: skip
    losses = [float(loss) for loss in re.findall(r"^step +\d+: loss (\d\.\d+),", steps, re.MULTILINE)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert "model.safetensors" in steps
    assert re.search(r"student - base in distribution: \+\d+ points", steps), steps
    report = re.search(r"^open (.*report\.html)$", steps, re.MULTILINE)
    assert report is not None
    assert (folder / report[1]).is_file()
    assert steps.rstrip().endswith("}")
    assert set(ast.literal_eval(steps.rstrip().splitlines()[-1]).values()) == {True}, "a second run reuses everything"


@pytest.mark.e2e
def test_reading_artifacts(steps: str, folder: Path) -> None:
    said = printed("read_artifacts.py", folder)
    assert len(re.findall(r"^\w+ +\d+ files, +\d+ rows$", said, re.MULTILINE)) == 7
    assert "list<element: double> 40 steps" in said
    weights = re.search(r"weights at the last step: (\{.*\})", said)
    assert weights is not None
    assert sum(ast.literal_eval(weights[1]).values()) == pytest.approx(1, abs=0.05)
    assert len(re.findall(r"│ (?:formal|socratic|planning) +│ +40 │ +(?:1\.0|0\.\d+) │", said)) == 3, said
    items = [int(count) for count in re.findall(r"│ +(?:true|false) +│ +(?:true|false) +│ +(\d+) │", said)]
    assert sum(items) == 40 + 20


@pytest.mark.e2e
def test_own_rationales(folder: Path) -> None:
    said = printed("own_rationales.py", folder)
    assert "not used: 1+1: Let x=1. x:=1+1=3. The answer is \\boxed{3}. (it says 3, right is 2)" in said
    assert "kept 47 of 48 rationales" in said
    assert "Question: A dial with twenty marks reads [1]. Turn it +1. What does it read?\nSolution:\n" in said
    losses = re.search(r"losses: (.*)", said)
    assert losses is not None
    assert len(losses[1].split()) == 6
    student = re.search(r"the student: (.*)", said)
    assert student is not None
    assert (folder / student[1] / "model.safetensors").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_cells_of_text_and_code(script: str) -> None:
    """The percent format: what VS Code and jupytext read as cells."""
    cells = re.split(r"^# %%", (EXAMPLES / script).read_text(), flags=re.MULTILINE)
    assert cells[0] == ""
    assert len(cells) > 7
    for cell in cells[1:]:
        head, _, body = cell.partition("\n")
        assert head in ("", " [markdown]")
        lines = [line for line in body.splitlines() if line]
        assert lines
        assert all(line.startswith("#") for line in lines) == (head == " [markdown]"), cell
    assert cells[1].startswith(" [markdown]\n# # ")


def test_the_readme_names_every_script() -> None:
    named = re.findall(r"examples/(\w+\.py)", (EXAMPLES / "README.md").read_text())
    assert sorted(named) == SCRIPTS
