"""An outcome says the last line of an error with a remedy, and the first one stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, EngineError
from stages.trial.outcome import Outcome, attempt, failure, read_outcome, write_outcome


def test_input_to_correct_keeps_its_own_remedy_and_others_get_the_trials() -> None:
    assert failure(ConfigError("a.b: wrong; found 3; correct a.b"), "x") == ("a.b: wrong; found 3", "correct a.b")
    assert failure(EngineError("vLLM could not start: why; see the stage's log"), "x") == ("vLLM could not start: why", "x")
    assert failure(RuntimeError("first\nsecond; third\n"), "x") == ("RuntimeError: second; third", "x")
    assert failure(KeyError(), "x") == ("KeyError: no message", "x")


def test_the_first_outcome_stays(tmp_path: Path) -> None:
    file = tmp_path / "outcome.json"
    assert read_outcome(file) is None
    write_outcome(file, Outcome("out of memory", "buy some"))
    write_outcome(file, Outcome("connection closed by peer", "ask it"))
    assert read_outcome(file) == ("out of memory", "buy some")


def test_an_error_becomes_the_outcome_and_ends_the_process(tmp_path: Path) -> None:
    def fails() -> Outcome:
        raise OSError("no such file")

    with pytest.raises(SystemExit) as ended:
        attempt(fails, tmp_path / "failed", "find it")
    assert ended.value.code == 1
    assert read_outcome(tmp_path / "failed") == ("OSError: no such file", "find it")
    attempt(lambda: None, tmp_path / "other-rank", "")
    assert not (tmp_path / "other-rank").exists()
