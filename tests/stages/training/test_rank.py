"""A rank trains a student in the form that is right for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import BadInput
from pipeline.training.step import TrainingState, train_step
from stages.speed.training import QUESTIONS, SIDES, config_of, join_alone
from stages.speed.workload import Lengths, make_set
from stages.training.rank import check_finite, start_engine, start_training_state
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


def _started(folder: Path, rate: float) -> TrainingState:
    build("llama", WIDE, EXCEPTIONS.get("llama", {})).save_pretrained(folder)
    config = config_of(folder, {**SIDES["packed"], "learning_rate": rate, "metanet_rate": 1e-4})
    join_alone(config.training)
    data = make_set(QUESTIONS, 8, Lengths(12, 24), VOCABULARY)
    engine, config = start_engine(config, data)
    return start_training_state(config, data, engine, None)


def _steps(state: TrainingState, many: int) -> None:
    for step in range(many):
        check_finite(train_step(state, step), state.config, 0 if step < 2 else 2)


def test_losses_that_are_no_numbers_end_training_with_step_and_cause(tmp_path: Path) -> None:
    state = _started(tmp_path, 1e30)
    with pytest.raises(
        BadInput, match=r"training: step [2-9] of \d+: .*nan.*; .*; likely because training\.learning_rate 1e\+30"
    ):
        _steps(state, 8)


def test_damaged_weights_end_training_in_its_first_step(tmp_path: Path) -> None:
    state = _started(tmp_path, 1e-3)
    with torch.no_grad():
        next(iter(state.engine.module.parameters())).fill_(float("nan"))
    with pytest.raises(
        BadInput, match=r"training: step 1 of \d+: loss nan.*; there is no checkpoint yet; .*weights are likely damaged"
    ):
        _steps(state, 1)
