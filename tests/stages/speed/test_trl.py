"""TRL side: packed lines hold several rows, and a step has as many rows as a padded one."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.student.shared_prefix_packing import best_fit
from stages.speed.lines import lines_of
from stages.speed.trl import trainer_of
from stages.speed.workload import SMALL, Lengths, make_set, make_student


@given(st.lists(st.integers(75, 125), min_size=64, max_size=64))
def test_rows_of_similar_length_fill_lines_of_several_rows(lengths: list[int]) -> None:
    lines = lines_of(lengths, 16)
    taken = {line for line, _ in best_fit([*lengths, lines.length])} - {0}
    assert 16 / lines.a_step >= 4
    assert len(taken) <= 64 / 16 * lines.a_step < len(taken) + lines.a_step


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("trl")
    make_student(folder / "student", SMALL)
    data = make_set(8, 8, Lengths(24, 24), SMALL.vocabulary)
    return {packing: trainer_of(folder, data, 2, 4, packing) for packing in (False, True)}


def test_packed_lines_of_the_trainer_hold_several_rows(trainers: dict[bool, Any]) -> None:
    rows = [len(line) for line in trainers[True].train_dataset["seq_lengths"]]
    assert sum(rows) == len(trainers[False].train_dataset) == 64
    assert statistics.median(rows) >= 4


def test_packed_rows_do_not_attend_to_each_other(trainers: dict[bool, Any]) -> None:
    trainer = trainers[True]
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.eval()
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
        bounds = batch["cu_seq_lens_q"].tolist()
        alone = [model(input_ids=batch["input_ids"][:, a:b]).logits[0] for a, b in pairwise(bounds)]
    assert len(alone) >= 3
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
