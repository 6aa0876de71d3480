"""A rank trains a student in the form that is right for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.training.step import train_step
from stages.speed.training import QUESTIONS, SIDES, config_of, join_alone
from stages.speed.workload import Lengths, make_set
from stages.training.rank import start_engine, start_training_state
from tests.support.architectures.sizes import EXCEPTIONS, VOCABULARY, WIDE
from tests.support.architectures.sweep import build


def test_a_student_with_convolutions_is_padded_and_learns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build("lfm2", WIDE, EXCEPTIONS["lfm2"]).save_pretrained(tmp_path)
    config = config_of(tmp_path, {**SIDES["packed"], "learning_rate": 1e-2, "metanet_rate": 1e-3})
    join_alone(config.training)
    data = make_set(QUESTIONS, 8, Lengths(12, 24), VOCABULARY)
    engine, config = start_engine(config, data)
    assert config.training.packing == "none"
    assert "rows are padded instead" in capfd.readouterr().out
    state = start_training_state(config, data, engine, None)
    losses = [train_step(state, step)["loss"] for step in range(4)]
    assert losses[-1] < losses[0]
