from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.schema.fields import RunName
from storage.artifact import MANIFEST
from storage.documents import POINTERS, Manifest, checked_name, parse_manifest
from storage.errors import ArtifactError, BadName
from storage.store import Store
from tests.support.storage.chains import chain

NAMES = st.text(max_size=110) | st.text("aZ09_.-", max_size=110) | st.sampled_from(POINTERS)


@pytest.fixture
def manifest(store: Store) -> Manifest:
    return chain(store)[2].manifest


def test_a_manifest_is_read_as_it_was_written(store: Store) -> None:
    artifact = chain(store)[2]
    content = (artifact.folder / MANIFEST).read_bytes()
    assert parse_manifest(content, "m") == orjson.loads(content)


@pytest.mark.parametrize("field", sorted(Manifest.__annotations__))
@pytest.mark.parametrize("value", [..., None, 3.5, [3], {"a": object}])
def test_a_manifest_with_a_missing_or_wrong_field_is_one_line(manifest: Manifest, field: str, value: Any) -> None:
    document: dict[str, Any] = {**manifest}
    if value is ...:
        del document[field]
    elif isinstance(value, dict):
        document[field] = {3: None} if field in ("inputs", "timing") else "Text"
    else:
        document[field] = value
    content = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    with pytest.raises(
        ArtifactError, match=r"m: (damaged|written by a newer).*; (remove its folder and run its|upgrade)"
    ) as caught:
        parse_manifest(content, "m")
    assert "\n" not in str(caught.value)


def test_unknown_fields_of_a_manifest_are_kept(manifest: Manifest) -> None:
    assert parse_manifest(orjson.dumps({**manifest, "note": 1}), "m") == {**manifest, "note": 1}


def test_inputs_that_are_not_those_of_the_identity_are_damage(manifest: Manifest) -> None:
    other = {**manifest, "inputs": {**manifest["inputs"], "sampling": "0" * 16}}
    with pytest.raises(ArtifactError, match=r"m: damaged \(inputs: not those of its identity\)"):
        parse_manifest(orjson.dumps(other), "m")


@given(NAMES)
def test_configurations_and_the_catalogue_accept_the_same_names(name: str) -> None:
    try:
        TypeAdapter(RunName).validate_python(name)
        configured = True
    except ValidationError:
        configured = False
    try:
        checked_name(name)
        catalogued = True
    except BadName:
        catalogued = False
    assert configured == catalogued


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("field", ["config", "identity", "summary", "unknown"])
def test_a_manifest_that_is_nested_deep_is_one_line(manifest: Manifest, field: str) -> None:
    def content(depth: int) -> bytes:
        return orjson.dumps(manifest | {field: None})[:-1] + b',"%s":%s}' % (field.encode(), _nested(depth))

    assert parse_manifest(content(100), "here")["stage"] == manifest["stage"]
    for depth in (250, 1000):
        with pytest.raises(ArtifactError, match=r"^here: damaged; remove its folder"):
            parse_manifest(content(depth), "here")


@pytest.mark.parametrize("name", ["x" * 100_000, "a\nb"])
def test_a_foreign_name_in_an_error_is_short_and_in_one_line(manifest: Manifest, name: str) -> None:
    with pytest.raises(ArtifactError) as raised:
        parse_manifest(orjson.dumps(manifest | {"inputs": {name: "x"}}), "here")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)
