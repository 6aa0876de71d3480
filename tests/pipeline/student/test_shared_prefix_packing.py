from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.student.attention import block_mask
from pipeline.student.batch import Batch, TokenRow, rationale_spans
from pipeline.student.shared_prefix_packing import best_fit, packed

tokens = st.lists(st.integers(1, 3), min_size=2, max_size=9)
groups = st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=4)


def _rows(drawn: list[list[list[int]]]) -> tuple[list[TokenRow], list[int]]:
    rows = [TokenRow(item, 1, (1, 2)) for group in drawn for item in group]
    return rows, [number for number, group in enumerate(drawn) for _ in group]


def _sees(item: Batch) -> torch.Tensor:
    """The mask given to FlexAttention, shape (B, T, T)."""
    assert item.ends_BT is not None
    lines, width = item.ends_BT.shape
    place, head = torch.arange(width), torch.zeros(1, 1, 1, dtype=torch.long)
    mask: torch.Tensor = block_mask(item.ends_BT).mask_mod(
        torch.arange(lines)[:, None, None], head, place[None, :, None], place[None, None, :]
    )
    return mask


@given(groups)
def test_every_token_sees_its_own_row_up_to_itself_and_nothing_else(drawn: list[list[list[int]]]) -> None:
    rows, numbers = _rows(drawn)
    item = packed(rows, rationale_spans(rows), numbers, pad=0)
    assert item.positions_BT is not None
    sees_BTT = _sees(item)
    for index, row in enumerate(rows):
        lines, column = (values_P[item.row_P == index].tolist() for values_P in (item.line_P, item.column_P))
        for depth, (line, node) in enumerate(zip(lines, column, strict=True)):
            seen = sees_BTT[line, node].nonzero()[:, 0]
            places = item.positions_BT[line, seen]
            assert places.sort().values.tolist() == list(range(depth + 1))
            assert item.tokens_BT[line, seen[places.argsort()]].tolist() == row.tokens[: depth + 1]
        assert item.labels_P[item.row_P == index].tolist() == row.tokens[1:]


@given(groups)
def test_shared_prefixes_of_a_group_are_stored_once(drawn: list[list[list[int]]]) -> None:
    rows, numbers = _rows(drawn)
    item = packed(rows, rationale_spans(rows), numbers, pad=0)
    prefixes = [{tuple(row[:end]) for row in group for end in range(1, len(row) + 1)} for group in drawn]
    assert int((item.tokens_BT > 0).sum()) == sum(map(len, prefixes))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_best_fit_never_overlaps_or_exceeds_the_longest_row(sizes: list[int]) -> None:
    taken: set[tuple[int, int]] = set()
    for size, (line, first) in zip(sizes, best_fit(sizes), strict=True):
        mine = {(line, place) for place in range(first, first + size)}
        assert first + size <= max(sizes)
        assert not taken & mine
        taken |= mine
    # Any two lines together exceed one line; otherwise best fit would have merged them.
    fill = [sum(1 for line, _ in taken if line == number) for number in {line for line, _ in taken}]
    assert all(first + second > max(sizes) for n, first in enumerate(fill) for second in fill[:n])


@given(groups)
def test_row_reads_match_the_mask_and_each_token_queries_once(drawn: list[list[list[int]]]) -> None:
    rows, numbers = _rows(drawn)
    item = packed(rows, rationale_spans(rows), numbers, pad=0)
    assert item.reads is not None
    sees_BTT, width = _sees(item), item.tokens_BT.shape[1]
    asked: list[int] = []
    for read in item.reads:
        own = set(read.own_O.tolist())
        for row, queries in enumerate(read.queries_RQ.tolist()):
            for number, place in enumerate(queries):
                if row * len(queries) + number not in own:
                    continue
                asked.append(place)
                line, column = divmod(place, width)
                read_here = read.keys_RS[row, read.sees_R1QS[row, 0, number]].tolist()
                assert sorted(read_here) == [line * width + key for key in sees_BTT[line, column].nonzero()[:, 0].tolist()]
    assert sorted(asked) == (item.tokens_BT.flatten() > 0).nonzero()[:, 0].tolist()


def test_padding_sees_itself_alone() -> None:
    rows = [TokenRow([1, 2, 3], 1, (1, 2)), TokenRow([1, 2], 1, (1, 2))]
    item = packed(rows, rationale_spans(rows), [0, 1], pad=0)
    assert torch.equal(_sees(item)[1, 2], torch.tensor([False, False, True]))
