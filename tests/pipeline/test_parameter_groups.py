"""Weight decay acts on the weights of layers alone."""

from __future__ import annotations

from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.parameter_groups import parameter_groups

SMALL = Qwen2Config(
    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)


def _names(model: nn.Module, decay: float) -> list[tuple[float, set[str]]]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, decay)
    return [(group["weight_decay"], {by_id[id(parameter)] for parameter in group["params"]}) for group in groups]


def test_norms_biases_and_embeddings_of_a_student_do_not_decay() -> None:
    for tied in (True, False):
        SMALL.tie_word_embeddings = tied
        student = Qwen2ForCausalLM(SMALL)
        (decay, decayed), (none, free) = _names(student, 0.1)
        assert (decay, none) == (0.1, 0.0)
        assert {name.split(".")[-2] for name in decayed} - {"lm_head"} == {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        }  # fmt: skip
        assert all(name.endswith(".weight") for name in decayed)
        assert ("lm_head.weight" in decayed) is not tied
        assert "model.embed_tokens.weight" in free
        assert decayed | free == {name for name, _ in student.named_parameters()}


def test_without_decay_there_is_one_group_in_the_model_s_order() -> None:
    student = Qwen2ForCausalLM(SMALL)
    (group,) = parameter_groups(student, 0.0)
    assert [id(item) for item in group["params"]] == [id(item) for item in student.parameters()]


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    student = Qwen2ForCausalLM(SMALL)
    for name, parameter in student.named_parameters():
        parameter.requires_grad = "q_proj.weight" in name
    ((decay, names),) = _names(student, 0.1)
    assert decay == 0.1
    assert len(names) == SMALL.num_hidden_layers
