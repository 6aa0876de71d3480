"""`mind doctor CONFIG --try` loads what a configuration names, after its checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from tests.support.commands import assert_refused, mind
from tests.support.trials import CONFIG, changes_of


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", str(CONFIG), *words])


def _set(changes: tuple[str, ...]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def test_nothing_to_try_without_a_configuration_is_refused() -> None:
    assert_refused(mind("doctor", "--try"), "--try", "mind doctor CONFIG --try")


def test_nothing_is_loaded_if_a_check_fails(tmp_path: Path) -> None:
    answer = doctor("--try", "--json", *_set(changes_of(tmp_path / "root", f"student.path={tmp_path}")))
    assert answer.exit_code == 2
    last = json.loads(answer.stdout)[-1]
    assert (last["name"], last["state"], last["found"]) == ("try", "warn", "nothing was tried, because a check failed")
    assert "trying" not in answer.stderr


@pytest.mark.e2e
@pytest.mark.soak
def test_all_is_well_with_vllm_and_two_ranks(tmp_path: Path) -> None:
    changes = changes_of(tmp_path / "root", "sampling.engine.kind=vllm", "training.ranks=2")
    answer = doctor("--try", "--json", *_set(changes))
    assert answer.exit_code == 0, answer.output
    rows = {row["name"]: row for row in json.loads(answer.stdout)}
    for name, words in (("teacher", "finish reason"), ("student", "finish reason"), ("training", "gradient norm")):
        assert rows[f"try {name}"]["state"] == "ok"
        assert words in rows[f"try {name}"]["found"]
    assert len(answer.stderr.splitlines()) == 3
    assert "the teacher in vllm" in answer.stderr
    assert not (tmp_path / "root").exists()
