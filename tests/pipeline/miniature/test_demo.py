"""The demo of the package is the demo of the repository, and may be written anywhere."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from flows.cli.app import app
from pipeline.config.run import load_config
from pipeline.miniature.demo import FOLDER
from stages.core.plan import plan
from tests.support.runs import REPOSITORY


def test_the_package_has_the_repositorys_demo_but_for_its_paths() -> None:
    repository = (REPOSITORY / "configs" / "miniature.yaml").read_text().splitlines()
    package = (FOLDER / "demo.yaml").read_text().splitlines()
    expected = [line.replace("../pipeline/miniature/", "").replace("../artifacts", "artifacts") for line in repository]
    assert package[1:] == expected[1:], "change both files alike"


def test_init_miniature_writes_the_demo_with_the_same_fingerprints(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["init", "--miniature", str(tmp_path / "demo.yaml")])
    assert answer.exit_code == 0, answer.output
    written, shipped = load_config(tmp_path / "demo.yaml"), load_config(REPOSITORY / "configs" / "miniature.yaml")
    assert {name: item.fingerprint for name, item in plan(written).items()} == {
        name: item.fingerprint for name, item in plan(shipped).items()
    }
    assert written.root == str(tmp_path / "artifacts")


def test_init_miniature_overwrites_nothing_and_takes_no_other_answer(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("name: mine\n")
    answer = CliRunner().invoke(app, ["init", "--miniature", str(file)])
    assert (answer.exit_code, "already exists" in answer.stderr, file.read_text()) == (2, True, "name: mine\n")
    answer = CliRunner().invoke(app, ["init", "--miniature", "--teacher", "models/x", str(tmp_path / "other.yaml")])
    assert (answer.exit_code, "--miniature" in answer.stderr) == (2, True)
    assert not (tmp_path / "other.yaml").exists()
