"""Computes MetaNet's input features: mean-pooled hidden states of a frozen encoder over question and rationale.

The encoder is any transformers model; the default is the frozen base student. A text longer than the encoder's context is split into
chunks, and the chunk means are averaged, weighted by length (method, section 2, our choice).

Axes: F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.student.batch import TokenRow
from pipeline.student.hidden_states import pooled_states
from pipeline.text_tokens import text_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(encoder: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int, rows_at_once: int) -> Tensor:
    """Features (len(texts), F) of the texts, fp32 on the CPU."""
    chunks: list[TokenRow] = []
    owner: list[int] = []
    for number, text in enumerate(texts):
        ids = text_tokens(tokenizer, text).ids
        for first in range(0, len(ids), context):
            chunks.append(TokenRow(ids[first : first + context], 0, (0, 0)))
            owner.append(number)
    pad = tokenizer.pad_token_id or 0
    states = pooled_states(encoder, chunks, pad, encoder.device, rows_at_once)
    weight = torch.tensor([float(len(chunk.tokens)) for chunk in chunks])[:, None]
    index = torch.tensor(owner)
    total = torch.zeros(len(texts), states.shape[1]).index_add(0, index, states * weight)
    return total / torch.zeros(len(texts), 1).index_add(0, index, weight)
