"""What a stage's process records about the code that it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import REPOSITORY

CODE = "from stages.core.process import _commit; print(_commit())"


def recorded(home: Path, path: str) -> str:
    """The commit that the code in this folder records, with programs from `path`."""
    answer = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=home,
        env={"PATH": path, "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages inside somebody else's repository, as in a virtual environment."""
    project = tmp_path_factory.mktemp("project")
    for name in ("pipeline", "stages", "storage"):
        shutil.copytree(REPOSITORY / name, project / "packages" / name, ignore=shutil.ignore_patterns("models", "__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], cwd=project, check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], cwd=project, check=True)
    return project / "packages"


def test_a_checkout_records_its_commit() -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    git = shutil.which("git")
    assert git is not None
    assert recorded(REPOSITORY, str(Path(git).parent)) == head


def test_without_git_no_commit_is_recorded_and_nothing_fails(tmp_path: Path) -> None:
    assert recorded(REPOSITORY, str(tmp_path)) == "None"


def test_an_installed_package_does_not_record_the_commit_of_the_repository_it_lies_in(package: Path) -> None:
    git = shutil.which("git")
    assert git is not None
    assert recorded(package, str(Path(git).parent)) == "None"
