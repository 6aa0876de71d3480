from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ModelError, NothingSurvives
from pipeline.grading.grade import conclusion
from pipeline.student.batch import TokenRow, batch, rationale_spans
from pipeline.student.table_view import TableView
from pipeline.training.training_set import context_row, held_out, make_row, questions_of_step, training_subset
from tests.support.training_sets import set_of

reasoning = st.lists(
    st.sampled_from(["7+5=2.", "So é≠7.", "Let x=7.", "the answer is 9?", "{", "}"]), min_size=1, max_size=5
).map(" ".join)
answers = st.integers(0, 10**6).map(str) | st.sampled_from(["yes", "B", "the red fox", "d-c-b-a", "7/3", "café"])


@given(st.integers(12, 40), st.integers(1, 12), st.integers(0, 5))
def test_a_question_appears_at_most_once_per_epoch(questions: int, per_step: int, seed: int) -> None:
    steps = questions // per_step
    for epoch in range(3):
        shown = torch.cat([questions_of_step(epoch * steps + step, questions, per_step, seed) for step in range(steps)])
        assert len(set(shown.tolist())) == len(shown) > questions - per_step


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [tuple(questions_of_step(epoch, 30, 30, seed).tolist()) for epoch in range(2) for seed in range(2)]
    assert len(set(orders)) == 4


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_step_is_its_slice_of_the_epoch_permutation(questions: int, per_step: int, seed: int, steps: list[int]) -> None:
    per_step = min(per_step, questions)
    for step in steps:
        epoch, place = divmod(step, questions // per_step)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        expected = torch.randperm(questions, generator=generator)[place * per_step : (place + 1) * per_step]
        found = questions_of_step(step, questions, per_step, seed)
        assert torch.equal(found, expected)
        found.fill_(-1)  # changing a returned tensor must not affect later calls


def test_the_permutation_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = torch.randperm

    def counted(*arguments: Any, **more: Any) -> torch.Tensor:
        drawn.append(arguments[0])
        return draw(*arguments, **more)

    monkeypatch.setattr(torch, "randperm", counted)
    for step in range(300):
        questions_of_step(step, 1009, 10, 77)
    assert drawn == [1009] * 3


@given(reasoning, answers)
def test_the_span_of_the_answer_decodes_to_the_answer(tiny_tokenizer: Any, text: str, answer: str) -> None:
    prompt = tiny_tokenizer("Question: [7]")["input_ids"]
    rationale = f"{text} {conclusion(answer)}"
    for make in (make_row, context_row):
        row = make(tiny_tokenizer, prompt, rationale, answer, 500, "")
        assert tiny_tokenizer.decode(row.answer_tokens) == answer
        assert row.tokens[: len(prompt)] == prompt
        assert row.start == len(prompt)


@given(reasoning, answers)
def test_the_loss_covers_the_rationale_and_its_end_token_only(tiny_tokenizer: Any, text: str, answer: str) -> None:
    prompt = tiny_tokenizer("Question: [7]")["input_ids"]
    rationale = f"{text} {conclusion(answer)}"
    row = make_row(tiny_tokenizer, prompt, rationale, answer, 500, "")
    ((first, last),) = rationale_spans([row])
    *learned, end = row.tokens[first:last]
    assert tiny_tokenizer.decode(learned) == rationale
    assert end == tiny_tokenizer.eos_token_id
    assert row.tokens == [*prompt, *learned, end]


def test_answer_tokens_are_equal_across_rationales(tiny_tokenizer: Any) -> None:
    rows = [make_row(tiny_tokenizer, [5] * n, f"{'So. ' * n}{conclusion('1207')}", "1207", 500, "") for n in range(1, 6)]
    assert len({tuple(row.answer_tokens) for row in rows}) == 1


def test_a_row_over_the_limit_is_refused_and_named(tiny_tokenizer: Any) -> None:
    rationale = f"So. {conclusion('7')}"
    length = len(make_row(tiny_tokenizer, [5], rationale, "7", 500, "").tokens)
    assert len(make_row(tiny_tokenizer, [5], rationale, "7", length, "").tokens) == length
    with pytest.raises(ModelError, match=f"rationale of 'q': {length} tokens, over training.max_length {length - 1}"):
        make_row(tiny_tokenizer, [5], rationale, "7", length - 1, "rationale of 'q'")


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=5))
def test_batch_positions_predict_their_labels(tiny_tokenizer: Any, shapes: list[tuple[int, int]]) -> None:
    rows = [make_row(tiny_tokenizer, [5] * n, f"{'So. ' * more}{conclusion('7')}", "7", 500, "") for n, more in shapes]
    item = batch(rows, rationale_spans(rows), pad=0)
    assert item.tokens_BT.shape == (len(rows), max(len(row.tokens) for row in rows))
    for index, row in enumerate(rows):
        assert item.tokens_BT[index].tolist() == row.tokens + [0] * (item.tokens_BT.shape[1] - len(row.tokens))
        assert item.labels_P[item.row_P == index].tolist() == row.tokens[row.start :]
    assert torch.equal(item.tokens_BT[item.row_P, item.column_P + 1], item.labels_P)


rows = st.builds(
    lambda tokens, start, first, more: TokenRow(tokens, start, (first, first + more)),
    st.lists(st.integers(0, 99), min_size=1, max_size=9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3),
)  # fmt: skip


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.tuples(rows, rows), min_size=1))
def test_a_training_set_returns_its_original_rows(pairs: dict[tuple[int, int], tuple[TokenRow, TokenRow]]) -> None:
    mask_NK = torch.zeros(4, 3, dtype=torch.bool)
    for place in pairs:
        mask_NK[place] = True
    data = set_of(pairs, torch.zeros(4, 3, 1), mask_NK, torch.zeros(4, 3), pad=0)
    assert len(data) == 4
    assert {(n, k): (data.row(n, k), data.context(n, k)) for n, k in mask_NK.nonzero().tolist()} == pairs


@given(st.integers(1, 200), st.floats(0, 0.9), st.integers(0, 5))
def test_a_seeded_share_of_the_questions_is_held_out(questions: int, share: float, seed: int) -> None:
    out_N = held_out(questions, share, seed)
    assert int(out_N.sum()) == round(share * questions)
    assert torch.equal(out_N, held_out(questions, share, seed))


def test_a_subset_keeps_the_chosen_perspectives_and_their_questions() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 1]]).bool()
    pairs = {(n, k): (TokenRow([n, k, 7], 1, (1, 2)),) * 2 for n, k in mask.nonzero().tolist()}
    data = set_of(pairs, torch.arange(9.0).view(3, 3, 1), mask, torch.arange(9.0).view(3, 3), pad=0)
    found = training_subset(data, torch.tensor([True, True, False]), torch.zeros(3, dtype=torch.bool), 2)
    assert found.mask_NK.tolist() == [[True, True, False], [True, False, False]]
    assert found.row(1, 0) == data.row(2, 0)
    assert torch.equal(found.features_NKF[torch.arange(2)], data.features_NKF[torch.tensor([0, 2])])
    assert torch.equal(found.base_losses_NK, data.base_losses_NK[[0, 2]])
    with pytest.raises(NothingSurvives, match=r"1 questions are not held out and have .* fewer than .* 2"):
        training_subset(data, torch.tensor([True, True, False]), torch.tensor([True, False, False]), 2)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_a_subset_equals_a_copy_but_shares_its_tables(questions: int, perspectives: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask_NK = torch.rand(questions, perspectives, generator=generator) < 0.6
    wanted_K, out_N = torch.rand(perspectives, generator=generator) < 0.7, torch.rand(questions, generator=generator) < 0.3
    pairs = {(n, k): (TokenRow([n, k, 7], 1, (1, 2)), TokenRow([n, 7, k], 2, (0, 1))) for n, k in mask_NK.nonzero().tolist()}
    whole = set_of(
        pairs, torch.rand(questions, perspectives, 2, generator=generator), mask_NK, torch.rand(mask_NK.shape), pad=0
    )
    whole = replace(whole, answers_N5=torch.tensor([[0, 3, 1, n, n + 1] for n in range(questions)]), tokens_T=torch.arange(999))
    there_N = (mask_NK & wanted_K).any(-1) & ~out_N
    found = training_subset(whole, wanted_K, out_N, 0)
    every_N = torch.arange(len(found))
    assert len(found) == int(there_N.sum())
    assert found.features_NKF.shape == whole.features_NKF[there_N].shape
    assert torch.equal(found.features_NKF[every_N], whole.features_NKF[there_N])
    assert torch.equal(found.base_losses_NK, whole.base_losses_NK[there_N])
    originals = there_N.nonzero()[:, 0].tolist()
    for mine, original in enumerate(originals):
        assert found.answer(mine) == whole.answer(original)
        for k in found.mask_NK[mine].nonzero()[:, 0].tolist():
            assert (found.row(mine, k), found.context(mine, k)) == (whole.row(original, k), whole.context(original, k))
    assert isinstance(found.features_NKF, TableView)
    assert found.features_NKF.table is whole.features_NKF
    assert isinstance(found.addresses_NK25, TableView)
    assert found.addresses_NK25.table is whole.addresses_NK25
    assert isinstance(found.answers_N5, TableView)
    assert found.answers_N5.table is whole.answers_N5
