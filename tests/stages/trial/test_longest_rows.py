"""The made-up rows: every rank's micro-batch has rows of max_length tokens, and the step can read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.run import RunConfig
from pipeline.training.micro_batch import assemble
from pipeline.training.training_set import questions_of_step
from stages.training.stage_config import Config, config_of
from stages.trial.longest_rows import longest_rows
from stages.trial.training_step import on_this_host
from tests.support.trials import miniature


def step_of(run: RunConfig) -> Config:
    return on_this_host(config_of(run))


@pytest.mark.parametrize("length", [8, 9, 100])
def test_every_rank_has_rows_of_max_length(tmp_path: Path, length: int) -> None:
    config = step_of(miniature(tmp_path, "training.ranks=2", f"training.max_length={length}", "training.answer_weight=0.2"))
    data = longest_rows(config, 50, 0)
    index_Q = questions_of_step(0, len(data), config.training.questions_per_step, config.seed)
    assert len(index_Q) == len(data) == 10
    for local in (range(5), range(5, 10)):
        micro = assemble(data, config.training, index_Q, data.mask_NK[index_Q], local)
        lengths = [len(data.row(int(index_Q[q]), k).tokens) for q, k in micro.pairs]
        assert max(lengths) == length
        assert lengths.count(length) >= len(config.perspectives)
        assert micro.answer_rows == 5
        assert [len(answer.rationales) for answer in micro.answers] == [len(config.perspectives)] * 5
    assert int(data.tokens_T.max()) < 50


def test_only_perspectives_that_are_trained_on_have_rows(tmp_path: Path) -> None:
    config = step_of(miniature(tmp_path, "training.perspectives=[planning]"))
    mask_NK = longest_rows(config, 50, 0).mask_NK
    assert torch.equal(mask_NK.sum(-1), torch.ones(5, dtype=torch.long))
