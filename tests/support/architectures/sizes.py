"""What no program can derive about the architectures of `sweep.py`."""

from __future__ import annotations

from typing import Any, Final

VOCABULARY: Final = 300
SMALL: Final[dict[str, Any]] = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim", "lru_width"), 32)
    | dict.fromkeys(("input_embedding_size", "output_embedding_size", "backbone_hidden_size", "attention_hidden_size"), 32)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers"), 4)
    | dict.fromkeys(("encoder_layers", "num_encoder_layers", "max_window_layers"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4)
    | dict.fromkeys(("swa_num_attention_heads", "linear_num_value_heads", "linear_num_heads", "index_n_heads"), 4)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "linear_num_key_heads", "n_groups"), 2)
    | dict.fromkeys(("head_dim", "swa_head_dim", "attention_head_size", "d_head", "kv_channels", "dim_head"), 8)
    | dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "global_head_dim", "index_head_dim"), 8)
    | dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "d_rel", "rel_extent"), 8)
    | {"v_head_dim": 12, "q_lora_rank": 16, "kv_lora_rank": 16, "o_lora_rank": 8, "o_groups": 2, "rotary_dim": 4}
    | dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_inner", "dff"), 64)
    | dict.fromkeys(("ffn_hidden_size", "dim_ff", "intermediate_size_mlp", "feed_forward_size", "dense_intermediate_size"), 64)
    | dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "gated_norm_rank"), 16
    )
    | dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size", "router_hidden_size", "laurel_rank"), 16)
    | dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "zero_expert_num"), 8)
    | dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "n_group", "topk_group", "moe_top_k"), 2)
    | dict.fromkeys(("n_shared_experts", "num_shared_experts", "first_k_dense_replace", "num_dense_layers"), 1)
    | dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "mamba_d_head", "mamba_head_dim", "mamba_headdim"), 8)
    | dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "chunk_size", "mamba_chunk_size", "block_size"), 8)
    | {"mamba_n_groups": 2, "mamba_ngroups": 1, "mamba_d_ssm": 64, "hidden_size_per_layer_input": 8, "adapter_rank": 8}
    | dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128)
    | dict.fromkeys(("context_length", "max_source_positions"), 128)
    | {
        "is_decoder": True,
        "use_cache": False,
        "use_sliding_window": True,
        "causal": True,
        "n_langs": 1,
        "query_pre_attn_scalar": 8,
    }
)
"""One small value per field name, for every configuration class that has the field."""

WINDOWS: Final = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "window_size",
                  "keep_window_size", "index_topk", "local_attention")  # fmt: skip
WIDE, NARROW = 64, 8

SLIDING: Final = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
CONVOLUTIONS: Final = {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4}
HYBRID: Final = {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4}
QWEN4: Final = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64, "indexer_compress_ratio": 4,
    "layer_types": ["linear_attention", "indexed_attention"] * 2, "num_hidden_layers": 4, "ple_layer_ids": [1],
    "ngram_size": 2, "heads_per_ngram": 2, "split_ngram_parts": 1, "hc_lowrank": 8, "eos_token_id": 2, "hc_count": 2,
    "ngram_vocab_size_base": 300, "make_ngram_vocab_size_divisible_by": 4,
}  # fmt: skip
BLT: Final = {"vocab_size": 300, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size_global": 32}

EXCEPTIONS: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": dict.fromkeys(("patcher_config", "encoder_config", "decoder_config", "global_config"), BLT),
    "cohere_compass_text": SLIDING | {"rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
        for kind in ("full_attention", "sliding_attention")
    }},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "moe_num_experts": 4},
    },
    "dots1": SLIDING,
    "gemma3n_text": SLIDING | {
        "num_kv_shared_layers": 2, "intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0]
    },
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": SLIDING | {"num_attention_heads_per_layer": [4, 8, 4, 8], "mlp_layer_types": ["dense", "dense", "sparse", "sparse"]},
    "lfm2": CONVOLUTIONS | {"full_attn_idxs": None},
    "lfm2_moe": CONVOLUTIONS,
    "mamba2": {"num_heads": 8},
    "mellum": SLIDING | {"mlp_layer_types": ["sparse"] * 4},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2, "mlp_layer_types": ["dense", "sparse"] * 2, "num_hidden_layers": 4
    },
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "smollm3": SLIDING | {"no_rope_layers": [1, 0, 1, 1]},
    "xmod": {"default_language": "en_XX"},
    "zamba": HYBRID | {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": HYBRID,
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    """Rotary position parameters of a kind whose frequencies change beyond 16 positions."""
    return {
        "rope_parameters": {
            "rope_type": kind,
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            **more,
        }
    }


LONG: Final = rope("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4)
VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama + dynamic rope": ("llama", rope("dynamic") | {"max_position_embeddings": 16}),
    "llama + longrope": ("llama", LONG),
    "llama + yarn": ("llama", rope("yarn")),
    "llama + llama3 rope": ("llama", rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0)),
    "phi3 + longrope": ("phi3", LONG | {"original_max_position_embeddings": 16}),
    "falcon + alibi": ("falcon", {"alibi": True}),
    "granite + logits_scaling": ("granite", {"logits_scaling": 8.0}),
    "hyperclovax + logits_scaling": ("hyperclovax", {"logits_scaling": 8.0}),
    "falcon_h1 + lm_head_multiplier": ("falcon_h1", {"lm_head_multiplier": 0.1}),
    "gemma2 without caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma4_text + experts, shared keys": ("gemma4_text", SLIDING | {"enable_moe_block": True, "num_kv_shared_layers": 2}),
    "doge + experts": ("doge", {"is_moe": True}),
    "gpt2 + inverse layer scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "minimax_m3_vl_text, few blocks": ("minimax_m3_vl_text", {"index_block_size": 4, "index_topk_blocks": 2}),
    "bert, not a decoder": ("bert", {"is_decoder": False}),
}

LEFT_OUT: Final[dict[str, str]] = {
    "gemma3n": "multimodal; its vision part needs timm",
    "gemma4_assistant": "drafts tokens from another model's hidden states",
    "gemma4_unified_assistant": "drafts tokens from another model's hidden states",
    "reformer": "refuses gradients outside training mode, where its hashing is random",
    "musicgen": "decodes audio codebooks from a text encoder",
    "musicgen_melody": "decodes audio codebooks from a text encoder",
}

TIES: Final = {"deepseek_v32", "glm_moe_dsa"}
"""With random weights, several entries of their index are exactly zero, and the form decides which of these is among the top k."""

OFFSET: Final = "position ids start at padding_idx + 1"
INDEXER: Final = "sparse index reads the mask"
CAUSES: Final[dict[str, str]] = (
    dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"), OFFSET)
    | dict.fromkeys(("axk2", "hy_v4"), INDEXER)
    | dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), f"{INDEXER}; with random weights its top k has ties, so that single losses differ")
    | dict.fromkeys(("bamba", "granitemoehybrid", "jamba", "mamba", "mamba2", "falcon_mamba", "zamba", "zamba2"), "state space")
    | dict.fromkeys(("falcon_h1", "falcon_h1 + lm_head_multiplier"), "state space beside attention")
    | dict.fromkeys(("lfm2", "lfm2_moe"), "convolution")
    | dict.fromkeys(("olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), "gated delta rule")
    | dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), f"{INDEXER}; gated delta rule, n-gram embeddings")
    | dict.fromkeys(("phimoe", "qwen2_moe"), "window only in the mask, not in a keyword")
    | dict.fromkeys(("llama4", "llama4_text"), "chunks only in the mask, not in a keyword")
    | dict.fromkeys(("nemotron", "stablelm"), "decoder layer drops keywords")
    | dict.fromkeys(("bert, not a decoder", "xlnet"), "bidirectional")
    | dict.fromkeys(("llama + dynamic rope", "llama + longrope", "phi3 + longrope"), "frequencies depend on the batch's longest row")
    | dict.fromkeys(("bloom", "falcon + alibi", "mpt"), "ALiBi")
    | {"doge": "own mask with learned bias", "doge + experts": "own mask with learned bias; router reshapes over the batch"}
    | {
        "blt": "patches, cross-attention",
        "cpmant": "length from pad ids; position bias, prompt tokens",
        "deepseek_v4": "attention sinks, compressed keys",
        "inkling_text": "convolution, position bias",
        "kimi_linear": "gated delta rule",
        "mimo_v2_flash": "attention sinks",
        "minimax": "linear attention",
        "minimax_m3_vl_text, few blocks": "block-sparse attention by keyword",
        "moshi": "decoder drops keywords",
        "nemotron_h": "state space",
        "prophetnet": "n-gram streams",
        "recurrent_gemma": "recurrent unit, convolution",
        "rwkv": "token shift, recurrence",
        "xlm": "own mask from lengths",
        "xlstm": "recurrence",
        "zaya": "convolution inside attention",
    }
)  # fmt: skip
