from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifact import MANIFEST, Artifact
from storage.errors import StorageError
from storage.fingerprint import file_digest
from storage.store import Store, open_store
from storage.verify import verify
from tests.support.storage.chains import VERSION_1, chain, commit_artifact, files


@pytest.fixture
def artifact(store: Store) -> Artifact:
    return commit_artifact(store, "training")


def _problems(store: Store, artifact: Artifact) -> list[str]:
    return [f"{where}: {problem}" for where, problem in verify(store, artifact.stage, artifact.fingerprint)]


def _alter(artifact: Artifact, change: Callable[[dict[str, Any]], Any]) -> None:
    path = artifact.folder / MANIFEST
    manifest = orjson.loads(path.read_bytes())
    change(manifest)
    path.write_bytes(orjson.dumps(manifest))


def test_intact_artifacts_have_no_findings_and_are_not_changed(store: Store) -> None:
    made = chain(store)
    before = files(store.root)
    assert [_problems(store, artifact) for artifact in made] == [[], [], []]
    assert files(store.root) == before


def test_a_changed_byte_that_open_does_not_notice_is_found(store: Store, artifact: Artifact) -> None:
    path = artifact.path("student/weights")
    path.write_bytes(b"x" * path.stat().st_size)
    store.open("training", artifact.fingerprint)
    assert _problems(store, artifact) == [f"{artifact.name}/student/weights: content differs from the manifest"]


@given(st.data())
def test_any_altered_byte_of_any_file_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """Flips bytes of the files listed in the manifest."""
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    artifact = commit_artifact(open_store(str(root)), "training")
    name = data.draw(st.sampled_from([entry["path"] for entry in artifact.manifest["files"]]))
    content = bytearray(artifact.path(name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    artifact.path(name).write_bytes(content)
    assert _problems(open_store(str(root)), artifact) == [f"{artifact.name}/{name}: content differs from the manifest"]


def test_missing_resized_and_extra_files_are_found(store: Store, artifact: Artifact) -> None:
    artifact.path("rows-00000.parquet").unlink()
    artifact.path("rows-00001.parquet").write_bytes(b"short")
    artifact.path("student/more").write_bytes(b"")
    size = artifact.manifest["files"][1]["bytes"]
    assert _problems(store, artifact) == [
        f"{artifact.name}/rows-00000.parquet: missing",
        f"{artifact.name}/rows-00001.parquet: has 5 bytes, not {size}",
        f"{artifact.name}/student/more: not in the manifest",
    ]


def test_an_altered_identity_is_found(store: Store, artifact: Artifact) -> None:
    _alter(artifact, lambda manifest: manifest["identity"]["config"].update(rate=2))
    assert _problems(store, artifact) == [
        f"{artifact.name}/{MANIFEST}: identity and fingerprint do not match: the manifest was altered"
    ]


def test_a_wrong_hash_or_row_count_in_the_manifest_is_found(store: Store, artifact: Artifact) -> None:
    _alter(artifact, lambda manifest: manifest["files"][0].update(sha256="0" * 64))
    _alter(artifact, lambda manifest: manifest["files"][1].update(rows=5))
    assert _problems(store, artifact) == [
        f"{artifact.name}/rows-00000.parquet: content differs from the manifest",
        f"{artifact.name}/rows-00001.parquet: has 1 rows, not 5",
    ]


@pytest.mark.parametrize("name", ["rows-00000.parquet", "student/model.safetensors"])
def test_a_file_with_the_right_hash_that_cannot_be_opened_is_found(store: Store, artifact: Artifact, name: str) -> None:
    artifact.path(name).write_bytes(b"not what its name says")

    def listed(manifest: dict[str, Any]) -> None:
        kept = [entry for entry in manifest["files"] if entry["path"] != name]
        path = artifact.path(name)
        entry = {"path": name, "bytes": path.stat().st_size, "rows": None, "sha256": file_digest(path)}
        manifest["files"] = [*kept, entry]

    _alter(artifact, listed)
    (problem,) = _problems(store, artifact)
    assert problem.startswith(f"{artifact.name}/{name}: cannot be opened (")


def test_a_missing_input_is_found(store: Store) -> None:
    questions, sampling, _ = chain(store)
    (questions.folder / MANIFEST).unlink()
    assert _problems(store, sampling) == [f"{sampling.name}: its input {questions.name} is missing"]


def test_a_damaged_or_missing_manifest_is_a_finding(store: Store, artifact: Artifact) -> None:
    for content in (b"{", b'{"schema_version": 3}', b'{"schema_version": 2}'):
        (artifact.folder / MANIFEST).write_bytes(content)
        (problem,) = _problems(store, artifact)
        assert problem.startswith(f"{artifact.name}: ")
    (artifact.folder / MANIFEST).unlink()
    assert "no training artifact" in _problems(store, artifact)[0]


@given(st.data())
def test_no_damaged_manifest_makes_verify_raise(tmp_path: Path, data: st.DataObject) -> None:
    source = next(VERSION_1.glob("questions/*"))
    content = bytearray((source / MANIFEST).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(32, 126))
    store = open_store(str(tmp_path))
    store.backend.write(f"questions/{source.name}/{MANIFEST}", bytes(content))
    store.backend.write(f"questions/{source.name}/questions.parquet", (source / "questions.parquet").read_bytes())
    try:
        verify(store, "questions", source.name)
    except StorageError as error:
        raise AssertionError("a finding, not an error") from error
