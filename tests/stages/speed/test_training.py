"""Training speed: times the product's own step, on sides that do equal work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.speed import training
from stages.speed.workload import Lengths, StudentShape, make_student


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, training.Trained]:
    threads = torch.get_num_threads()
    found = training.sides_of(tmp_path_factory.mktemp("speed"), Lengths(16, 24), 1)
    torch.set_num_threads(threads)
    return found


def test_packed_padded_and_plain_use_equal_tokens_and_mind_fewer(sides: dict[str, training.Trained]) -> None:
    tokens = {name: side.once("tokens", 2)() for name, side in sides.items()}
    mind = tokens.pop("mind")
    assert len(set(tokens.values())) == 1
    assert mind < next(iter(tokens.values()))


def test_packed_padded_and_plain_end_with_equal_weights(sides: dict[str, training.Trained]) -> None:
    for name in ("packed", "padded", "plain"):
        sides[name].once("steps", 2)()
    weights = {
        name: torch.cat([value.flatten() for value in sides[name].state.engine.module.parameters()])
        for name in ("packed", "padded", "plain")
    }
    torch.testing.assert_close(weights["packed"], weights["padded"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights["packed"], weights["plain"], rtol=1e-3, atol=1e-4)


def test_plain_pytorch_uses_the_given_device(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student", StudentShape(64, 1, 64))
    plain = training._plain(training.config_of(student, training.SIDES["packed"]), torch.device("meta"))
    assert {parameter.device.type for parameter in plain.module.parameters()} == {"meta"} == {plain.device.type}


def test_flex_attention_is_timed_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        packings = {fields["packing"] for fields in training.sides_here().values()}
        assert ("flex" in packings) == there


def test_shares_of_a_step_are_between_zero_and_one(sides: dict[str, training.Trained]) -> None:
    assert all(0 < share < 1 for share in training.shares(sides["mind"], 1).values())
