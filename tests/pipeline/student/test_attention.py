"""Row-by-row attention equals plain causal attention, and refuses models with a shorter window."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask
from transformers import MistralConfig, MistralForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.errors import ModelError
from pipeline.student.attention import ROWS, block_mask, reads_of, rows_attention


@given(st.integers(2, 12), st.integers(1, 12), st.sampled_from([1, 2, 4]), st.integers(0, 2**31))
def test_one_row_alone_has_plain_causal_attention(length: int, had: int, groups: int, seed: int) -> None:
    """A prefix shared with an earlier row has no queries here, so its outputs stay zero."""
    random = torch.Generator().manual_seed(seed)
    query_BHTD = torch.randn(1, 4, length, 8, generator=random)
    key_BGTD, value_BGTD = torch.randn(2, 1, groups, length, 8, generator=random)
    had = min(had, length - 1)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 4 // groups, True  # type: ignore[assignment]
    plain, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query_BHTD, key_BGTD, value_BGTD, None)
    reads = reads_of([(np.arange(length), had)])
    found, _ = rows_attention(module, query_BHTD, key_BGTD, value_BGTD, None, reads=reads)
    torch.testing.assert_close(found[:, had:], plain[:, had:], rtol=1e-4, atol=1e-5)
    assert not found[:, :had].any()


@given(st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=12), min_size=1, max_size=4), st.sampled_from([8, 16]))
def test_the_block_mask_covers_every_visible_pair_and_full_blocks_are_full(lines: list[list[int]], block: int) -> None:
    """Nested spans: a length gives the start of the next span, which ends with the enclosing one."""
    width = max(map(sum, lines))
    ends_BT = torch.arange(1, width + 1).repeat(len(lines), 1)
    for line, lengths in enumerate(lines):
        first = 0
        for number, length in enumerate(lengths):
            ends_BT[line, first : first + length] = sum(lengths) if number % 2 == 0 else first + length
            first += length
    with mock.patch("pipeline.student.attention.BLOCK", block):
        mask = block_mask(ends_BT)
    place = torch.arange(width)
    for line in range(len(lines)):
        sees_QS = (place <= place[:, None]) & (place[:, None] < ends_BT[line])
        for query, (some, unmasked) in enumerate(zip(_read(mask, line), _read(mask, line, full=True), strict=True)):
            assert not some & unmasked
            for key in range(mask.kv_indices.shape[-1]):
                here_QS = sees_QS[query * block : (query + 1) * block, key * block : (key + 1) * block]
                assert not here_QS.any() or key in some | unmasked
                assert key not in unmasked or here_QS.all()


def _read(mask: BlockMask, line: int, full: bool = False) -> list[set[int]]:
    """The key blocks that each query block reads."""
    counts, numbers = (mask.full_kv_num_blocks, mask.full_kv_indices) if full else (mask.kv_num_blocks, mask.kv_indices)
    return [set(row[:count].tolist()) for count, row in zip(counts[line, 0], numbers[line, 0], strict=True)]


def test_a_row_that_is_not_packed_is_refused_beyond_the_window() -> None:
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        sliding_window=8,
    )  # fmt: skip
    config._attn_implementation = ROWS
    model = MistralForCausalLM(config)
    model(input_ids=torch.ones(1, 8, dtype=torch.long))
    with pytest.raises(ModelError, match="rows of 9 tokens, over the model's window of 8, must be packed"):
        model(input_ids=torch.ones(1, 9, dtype=torch.long))
