"""MetaNet's features, from a causal student and from a BERT, the paper's kind of encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM

from pipeline.metanet.features import encode

SMALL: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TEXTS = ["Question: 7+5? Solution: 2.", "Turn it " * 20, "x"]


def _encoder(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**SMALL, max_position_embeddings=16)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=1)).eval()


@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_features_do_not_depend_on_the_other_texts(kind: str, tiny_tokenizer: Any) -> None:
    encoder = _encoder(kind)
    together = encode(encoder, tiny_tokenizer, TEXTS, context=16, rows_at_once=4)
    alone = torch.cat([encode(encoder, tiny_tokenizer, [text], context=16, rows_at_once=1) for text in TEXTS])
    assert together.shape == (len(TEXTS), SMALL["hidden_size"])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
