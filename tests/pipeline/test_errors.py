"""No error quotes a secret, and no address with a secret is accepted."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.run import load_config
from pipeline.errors import ConfigError, EngineRefused, MindError, redacted, shown
from tests.support.runs import write_config

SECRET = "Hunter2"
ADDRESSES = [
    f"http://user:{SECRET}@host/v1",
    f"http://{SECRET}@host/v1",
    f"http://user:x/{SECRET}@host/v1",
    f"http://user:x@{SECRET}@host/v1",
    f"https://user:a {SECRET}@host",
    f"user:{SECRET}@host/v1",
    f"ftp://user:{SECRET}@host",
    f"http://host/v1?api_key={SECRET}",
    f"http://host/v1?x=1&access-token={SECRET}",
    f"http://host/v1?%61pi_key={SECRET}",
    f"http://host/v1?API_KEY={SECRET}",
    f"http://host/v1?sig={SECRET}",
    f"http://host/v1#token={SECRET}",
    f"http://user:{SECRET}@host:port/v1",
    f"http://user:{SECRET}@[::1/v1",
]
ROOTS = [f"s3://AKIA:{SECRET}@bucket/prefix", f"https://host/x?sig={SECRET}", f"s3://bucket/x?secret={SECRET}"]


def _refusal(tmp_path: Path, tree: dict[str, Any], *changes: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(write_config(tmp_path, tree), changes)
    return str(raised.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret_is_refused_without_showing_it(tmp_path: Path, run_tree: dict[str, Any], address: str) -> None:
    sampling = {**run_tree.get("sampling", {}), "engine": {"kind": "openai", "base_url": address, "served_model": "m"}}
    for message in (
        _refusal(tmp_path, run_tree | {"sampling": sampling}),
        _refusal(tmp_path, run_tree, f'sampling.engine.base_url="{address}"'),
        _refusal(tmp_path, run_tree, f"training.steps={address}"),
        _refusal(tmp_path, run_tree, f"training.steps.x={address}"),
    ):
        assert SECRET not in message
    engine = {"kind": "openai", "base_url": ["http://host/v1", address], "served_model": "m"}
    message = _refusal(tmp_path, run_tree | {"sampling": {**run_tree.get("sampling", {}), "engine": engine}})
    assert "sampling.engine.base_url.1: " in message
    assert SECRET not in message


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_with_a_secret_is_refused_without_showing_it(tmp_path: Path, run_tree: dict[str, Any], root: str) -> None:
    message = _refusal(tmp_path, run_tree | {"root": root})
    assert "root: an address must have no " in message
    assert SECRET not in message


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/v1", "https://x.azure.com/openai?api-version=2024-10-21"])
def test_an_address_without_a_secret_is_accepted(tmp_path: Path, run_tree: dict[str, Any], address: str) -> None:
    engine = {"kind": "openai", "base_url": address, "served_model": "m"}
    loaded = load_config(write_config(tmp_path, run_tree | {"sampling": {**run_tree.get("sampling", {}), "engine": engine}}))
    assert loaded.sampling.engine.base_url == address


@pytest.mark.parametrize("address", [item for item in ADDRESSES if "://" in item and " " not in item and "%" not in item])
def test_no_error_shows_the_secret_of_an_address(address: str) -> None:
    for error in (MindError(f"{address}: no"), EngineRefused(f"tried {address!r} and {address}; give another one")):
        assert SECRET not in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own


@given(st.text(alphabet="ab /:;.-\n", max_size=40))
def test_texts_without_addresses_are_left_as_they_are(text: str) -> None:
    assert redacted(text) == text
    assert shown(text) == text


@pytest.mark.parametrize("kept", ["hf://datasets/org/name@0123abc/x.jsonl: no", "http://host/v1: serves a@b", "ORG/MODEL@abc"])
def test_an_at_sign_elsewhere_is_kept(kept: str) -> None:
    assert redacted(kept).endswith(kept[-6:])


@pytest.mark.parametrize("text", ["://" * 50_000, "?" + "key" * 50_000, "://a:" * 20_000, "&sig" * 50_000])
def test_redaction_takes_no_time(text: str) -> None:
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 10
