from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.packing import packed
from pipeline.training_set import Row, rationale_spans

tokens = st.lists(st.integers(1, 3), min_size=2, max_size=9)
groups = st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=3)


def _rows(drawn: list[list[list[int]]]) -> tuple[list[Row], list[int]]:
    rows = [Row(item, 1, (1, 2)) for group in drawn for item in group]
    return rows, [number for number, group in enumerate(drawn) for _ in group]


@given(groups)
def test_every_token_sees_its_own_row_up_to_itself_and_nothing_else(drawn: list[list[list[int]]]) -> None:
    rows, lines = _rows(drawn)
    item = packed(rows, rationale_spans(rows), lines, pad=0)
    assert item.positions_BT is not None and item.sees_BTT is not None
    for index, row in enumerate(rows):
        line, column = (values_P[item.row_P == index] for values_P in (item.line_P, item.column_P))
        assert set(line.tolist()) == {lines[index]}
        for depth, node in enumerate(column.tolist()):
            seen = item.sees_BTT[lines[index], node].nonzero()[:, 0]
            places = item.positions_BT[lines[index], seen]
            assert places.sort().values.tolist() == list(range(depth + 1))
            assert item.tokens_BT[lines[index], seen[places.argsort()]].tolist() == row.tokens[: depth + 1]
        assert item.labels_P[item.row_P == index].tolist() == row.tokens[1:]


@given(groups)
def test_what_rows_of_a_group_have_in_common_is_there_once(drawn: list[list[list[int]]]) -> None:
    rows, lines = _rows(drawn)
    item = packed(rows, rationale_spans(rows), lines, pad=0)
    for number, group in enumerate(drawn):
        prefixes = {tuple(row[:end]) for row in group for end in range(1, len(row) + 1)}
        assert int((item.tokens_BT[number] > 0).sum()) == len(prefixes)


def test_padding_sees_itself_alone() -> None:
    rows = [Row([1, 2, 3], 1, (1, 2)), Row([1, 2], 1, (1, 2))]
    item = packed(rows, rationale_spans(rows), [0, 1], pad=0)
    assert item.sees_BTT is not None
    assert torch.equal(item.sees_BTT[1, 2], torch.tensor([False, False, True]))
