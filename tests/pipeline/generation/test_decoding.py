"""Decoding settings mean the same for every engine, and a server gets them under its own names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel, ServedModel
from pipeline.config.sampling import Sampling
from pipeline.errors import EngineRefused
from pipeline.generation.engine import Decoding, sampling_decoding
from pipeline.generation.open_engine import open_engine
from pipeline.generation.transformers_engine import _choose, _penalised
from tests.support.fake_teacher import Asked, Fault, reply, serve

PLAIN = Decoding(0.7, 0.9, 16)
ALL = replace(PLAIN, top_k=20, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.5, reasoning_effort="low")
OPTIONAL = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": 0.5, "reasoning_effort": "low"}


CHAT = reply("7") | {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "7"}}]}


def asked_of_server(decoding: Decoding, fault: Any = None, chat: bool = True, **engine: Any) -> list[dict[str, Any]]:
    """The bodies of the requests for one text."""
    bodies: list[dict[str, Any]] = []

    def watch(asked: Asked) -> Fault | None:
        if not asked:  # the list of models
            return None
        bodies.append(asked)
        refused = None if fault is None else fault(asked)
        return refused or (Fault(body=json.dumps(CHAT).encode()) if chat else None)

    with serve(lambda prompt, seed: f"{prompt} {seed}", watch) as url:
        config = EngineConfig.model_validate({"kind": "openai", "base_url": url, "served_model": "simulated", **engine})
        with open_engine(config, ServedModel(served=True, chat=chat)) as opened:
            opened.generate(["Q"], [7], decoding)
    return bodies


@pytest.mark.parametrize("chat", [True, False])
def test_a_server_gets_what_is_set_and_nothing_else(chat: bool) -> None:
    common = {"model": "simulated", "temperature": 0.7, "top_p": 0.9, "max_tokens": 16, "seed": 7}
    for decoding, more in ((PLAIN, {}), (ALL, OPTIONAL)):
        (body,) = asked_of_server(decoding, chat=chat)
        assert {name: value for name, value in body.items() if name not in ("messages", "prompt")} == {**common, **more}


def test_parameters_have_the_servers_names_or_are_left_out() -> None:
    parameters = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None, "reasoning_effort": "effort"}
    (body,) = asked_of_server(ALL, parameters=parameters)
    assert (body["max_completion_tokens"], body["effort"]) == (16, "low")
    assert not {"max_tokens", "temperature", "seed", "reasoning_effort"} & body.keys()


def test_a_refused_parameter_is_named_with_the_setting_that_leaves_it_out() -> None:
    said = b'{"error": {"message": "Unsupported value: \'temperature\' does not support 0.7 with this model."}}'

    def refuse(document: dict[str, Any]) -> Fault | None:
        return Fault(400, body=said) if "temperature" in document else None

    with pytest.raises(EngineRefused, match=r"temperature.*; engine\.parameters: \{temperature: null\} leaves temperature out"):
        asked_of_server(PLAIN, refuse)
    (body,) = asked_of_server(PLAIN, refuse, parameters={"temperature": None})
    assert "temperature" not in body


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort: only a server knows it"),
        ({"engine": {"parameters": {"sead": None}}}, "Input should be 'max_tokens'"),
        ({"top_k": 0}, "greater than or equal to 1"),
        ({"min_p": 2}, "less than or equal to 1"),
    ],
)
def test_a_setting_without_meaning_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling.model_validate(fields)


def test_all_settings_of_a_sampling_reach_the_engine() -> None:
    server = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "served_model": "x"}
    found = sampling_decoding(
        Sampling.model_validate({**OPTIONAL, "temperature": 0.3, "top_p": 0.8, "max_tokens": 9, "engine": server})
    )
    assert found == Decoding(0.3, 0.8, 9, likelihood=True, **OPTIONAL)  # type: ignore[arg-type]


LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=12).map(torch.tensor)


@given(LOGITS, st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
def test_limits_leave_the_likeliest_tokens(logits_V: torch.Tensor, top_k: int, min_p: float, seed: int) -> None:
    decoding = Decoding(1.0, 1.0, 1, top_k=top_k, min_p=min_p)
    pick = _choose(logits_V, torch.Generator().manual_seed(seed), decoding)
    probabilities_V = torch.softmax(logits_V, -1)
    assert (probabilities_V > probabilities_V[pick]).sum() < top_k
    assert probabilities_V[pick] >= min_p * probabilities_V.max() * (1 - 1e-6)


@given(LOGITS, st.floats(0.5, 2), st.floats(-2, 2))
def test_penalties_change_only_tokens_that_are_there(logits_V: torch.Tensor, repetition: float, presence: float) -> None:
    decoding = Decoding(1.0, 1.0, 1, repetition_penalty=repetition, presence_penalty=presence)
    found_V = _penalised(logits_V[None], torch.tensor([[0]]), [[1, 1]], decoding)[0]
    assert torch.equal(found_V[2:], logits_V[2:])
    for token, subtracted in ((0, 0.0), (1, presence)):
        value = float(logits_V[token])
        expected = (value / repetition if value > 0 else value * repetition) - subtracted
        assert float(found_V[token]) == pytest.approx(expected, abs=1e-4)


def test_a_text_of_the_likeliest_token_alone_is_the_greedy_one(tiny_model: Path) -> None:
    config = EngineConfig.model_validate({"kind": "transformers", "dtype": "float32", "max_context": 512})
    with open_engine(config, LocalModel(path=tiny_model, chat=False)) as engine:
        greedy = engine.generate(["Item 3:"] * 2, [0, 1], Decoding(0.0, 1.0, 12))
        for limit in (Decoding(1.0, 1.0, 12, top_k=1), Decoding(1.0, 1.0, 12, min_p=1.0)):
            assert [said.text for said in engine.generate(["Item 3:"] * 2, [0, 1], limit)] == [said.text for said in greedy]
        varied = engine.generate(["Item 3:"], [0], Decoding(0.0, 1.0, 12, presence_penalty=2.0, repetition_penalty=2.0))
        assert varied[0].text != greedy[0].text
