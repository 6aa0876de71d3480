"""The built wheel is complete: installed without the repository, it writes, plans and runs the demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.runs import REPOSITORY

PACKAGES = ("pipeline", "stages", "flows", "storage")


def sources() -> list[Path]:
    """The repository's files, new ones included, as git lists them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines() if (REPOSITORY / line).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build writes into the folder that it builds."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in sources():
        if file.parts[0] in PACKAGES or len(file.parts) == 1:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / file, copy / file)
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(copy)], check=True, capture_output=True, timeout=200)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=200)
    return folder


def run(installed: Path, where: Path, *arguments: str) -> str:
    """The output of a program in a folder outside the repository, with the installed wheel and nothing else of MIND on its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    answer = subprocess.run(
        command, cwd=where, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_every_file_of_the_packages_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    tracked = {str(file) for file in sources() if file.parts[0] in PACKAGES}
    assert any(name.endswith(".safetensors") for name in tracked)
    with zipfile.ZipFile(wheel) as content:
        packed = {name for name in content.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert packed == tracked


def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import flows, pipeline, stages, storage\nfor part in (flows, pipeline, stages, storage): print(part.__path__[0])"
    places = run(installed, tmp_path, "-c", code).split()
    assert places == [str(installed / name) for name in ("flows", "pipeline", "stages", "storage")]


def test_the_demo_is_written_planned_and_begun_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    mind = ("-m", "flows.cli")
    assert "mind run demo.yaml" in run(installed, tmp_path, *mind, "init", "--miniature", "demo.yaml")
    planned = run(installed, tmp_path, *mind, "plan", "demo.yaml")
    assert planned.count(" run ") == 7, planned
    assert str(REPOSITORY) not in (tmp_path / "demo.yaml").read_text()
    assert "questions   done in" in run(installed, tmp_path, *mind, "stage", "questions", "demo.yaml")
    assert "cached" in run(installed, tmp_path, *mind, "stage", "questions", "demo.yaml")
    (manifest,) = (tmp_path / "artifacts" / "questions").glob("*/manifest.json")
    assert manifest.parent.name in planned


def test_deployments_need_the_repository_and_say_so(installed: Path, tmp_path: Path) -> None:
    code = (
        "from flows.server.deployments import register\n"
        "from pipeline.errors import ConfigError\n"
        "try: register(0, print)\nexcept ConfigError as error: print(error)"
    )
    said = run(installed, tmp_path, "-c", f"import os\nos.environ['PREFECT_API_URL'] = 'http://127.0.0.1:9/api'\n{code}")
    assert said.startswith(f"{installed / 'prefect.yaml'}: no such file")
    assert "checkout" in said
