"""The answers that L_cons compares."""

from __future__ import annotations

import torch

from pipeline.config.training import Training
from pipeline.student.batch import TokenRow
from pipeline.training.micro_batch import assemble
from tests.support.training_sets import set_of


def test_the_answer_that_most_rationales_spell_is_compared_and_the_others_are_counted() -> None:
    spelled = ([7, 8], [7, 9], [7, 9], [7, 9], [7, 8])
    rows = {(0, k): TokenRow([1, 2, 3, *answer, 4], 2, (3, 5)) for k, answer in enumerate(spelled)}
    mask_NK = torch.ones(1, 5, dtype=torch.bool)
    data = set_of({key: (row, row) for key, row in rows.items()}, torch.zeros(1, 5, 2), mask_NK, torch.zeros(1, 5), 0)
    training = Training(questions_per_step=1, questions_per_micro_batch=1)
    micro = assemble(data, training, torch.tensor([0]), mask_NK, range(1))
    assert [answer.rationales for answer in micro.answers] == [[1, 2, 3]]
    assert micro.left_out == 2
