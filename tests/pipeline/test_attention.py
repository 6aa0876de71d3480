"""Attention row by row knows plain causal attention, and refuses a model whose attention is more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.attention import ROWS, reads_of, rows_attention
from pipeline.errors import ModelError


@given(st.integers(2, 12), st.integers(1, 12), st.sampled_from([1, 2, 4]), st.integers(0, 2**31))
def test_one_row_alone_has_plain_causal_attention(length: int, had: int, groups: int, seed: int) -> None:
    """Where a row begins that an earlier one had, nobody asks, so nothing is put there."""
    random = torch.Generator().manual_seed(seed)
    query_BHTD = torch.randn(1, 4, length, 8, generator=random)
    key_BGTD, value_BGTD = torch.randn(2, 1, groups, length, 8, generator=random)
    had = min(had, length - 1)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 4 // groups, True  # type: ignore[assignment]
    plain, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query_BHTD, key_BGTD, value_BGTD, None)
    reads = reads_of([(list(range(length)), had)])
    found, _ = rows_attention(module, query_BHTD, key_BGTD, value_BGTD, None, reads=reads)
    torch.testing.assert_close(found[:, had:], plain[:, had:], rtol=1e-4, atol=1e-5)
    assert not found[:, :had].any()


def test_a_window_that_is_shorter_than_the_rows_is_refused_and_a_longer_one_is_not() -> None:
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        sliding_window=8,
    )  # fmt: skip
    config._attn_implementation = ROWS
    model = MistralForCausalLM(config)
    model(input_ids=torch.ones(1, 8, dtype=torch.long))
    with pytest.raises(ModelError, match=r"sliding_window 8, for rows of 9 tokens; set training\.packing to none"):
        model(input_ids=torch.ones(1, 9, dtype=torch.long))
