"""Which environment variables may be sent to a server, and where a configuration names servers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.engines import EngineConfig, Server, servers_of
from pipeline.config.run import RunConfig


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PATH", "", "A_API_KEY_FILE"])
def test_only_api_keys_are_sent_unless_the_machine_lists_more(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MIND_KEY_VARIABLES", "GATEWAY_TOKEN, OTHER_TOKEN")
    for allowed in ("OPENAI_API_KEY", "OUR_GATEWAY_API_KEY", "GATEWAY_TOKEN", "OTHER_TOKEN"):
        assert EngineConfig(key_variable=allowed).key_variable == allowed
    with pytest.raises(ValidationError, match="ends in _API_KEY, or list it in MIND_KEY_VARIABLES"):
        EngineConfig(key_variable=name)


def test_base_url_is_one_address_or_a_list_of_different_ones() -> None:
    one, other = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
    for given, addresses in ((one, (one,)), ([one], (one,)), ([one, other], (one, other)), (None, ())):
        engine = EngineConfig.model_validate({"base_url": given})
        assert engine.addresses == addresses
        assert EngineConfig.model_validate_json(engine.model_dump_json()) == engine
    assert EngineConfig.model_validate({"base_url": [one]}) == EngineConfig(base_url=one)
    for wrong, said in (
        ([one, one], f"{one} is given twice"),
        ([], "at least 1 item"),
        ([one, "127.0.0.1:2"], "expected an address"),
    ):
        with pytest.raises(ValidationError, match=said):
            EngineConfig.model_validate({"base_url": wrong})


def test_several_addresses_are_one_server_of_a_run(run_tree: dict[str, Any]) -> None:
    addresses = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    engine = {"kind": "openai", "base_url": addresses, "served_model": "m"}
    run = RunConfig.model_validate({**run_tree, "sampling": {**run_tree.get("sampling", {}), "engine": engine}})
    assert servers_of(run)["sampling.engine"] == Server(tuple(addresses), "OPENAI_API_KEY")


def test_every_engine_of_a_run_is_found(run_tree: dict[str, Any]) -> None:
    server = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "served_model": "m", "key_variable": "J_API_KEY"}
    judge = {"model": {"served": True}, "engine": server}
    run = RunConfig.model_validate({**run_tree, "sampling": {**run_tree.get("sampling", {}), "judge": judge}})
    none = Server(None, "OPENAI_API_KEY")
    assert servers_of(run) == {
        "sampling.engine": none,
        "sampling.judge.engine": Server("http://127.0.0.1:1/v1", "J_API_KEY"),
        "synthesis.engine": none,
        "evaluation.engine": none,
    }


def test_only_a_server_has_batches() -> None:
    with pytest.raises(ValidationError, match="batches: only a server has them; set kind to openai"):
        EngineConfig(batches=True)
