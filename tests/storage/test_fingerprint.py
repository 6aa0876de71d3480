from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UnstableIdentity
from storage.fingerprint import canonical_json, file_digest, fingerprint

scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e15, 1e15) | st.text("abc é", max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner), max_leaves=8
)


@given(st.dictionaries(st.text("abcd", max_size=3), values, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(identity: dict[str, Any], random: Any) -> None:
    keys = list(identity)
    random.shuffle(keys)
    assert fingerprint({key: identity[key] for key in keys}) == fingerprint(identity)


@given(values)
def test_canonical_json_survives_a_round_trip(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_equals_its_integer(number: int) -> None:
    assert canonical_json(float(number)) == canonical_json(number)


@given(st.lists(scalars, max_size=4))
def test_a_tuple_equals_its_list(items: list[Any]) -> None:
    assert canonical_json(tuple(items)) == canonical_json(items)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_finite_number_has_an_identity(number: float) -> None:
    assert len(fingerprint({"number": number})) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x"), object(), b"bytes", {1: "one"}])
def test_a_value_without_a_stable_identity_is_refused_with_its_path(value: object) -> None:
    with pytest.raises(UnstableIdentity, match=r"value\.outer\[1\]: .*no stable identity; use"):
        fingerprint({"outer": [0, value]})


def test_fingerprints_never_change() -> None:
    assert fingerprint({"stage": "questions", "version": 1, "config": {"rate": 1e-5, "steps": 3.0}}) == "6a9d31cd202738c7"


def test_a_file_digest_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
