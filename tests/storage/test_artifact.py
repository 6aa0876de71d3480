from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ArtifactBusy, ArtifactError, ArtifactMissing, RootNotWritable
from storage.artifact import MANIFEST, Artifact
from storage.store import Store

STAGE, DIGEST = "sampling", "0123456789abcdef"


def _numbers(*values: int) -> pa.Table:
    return pa.table({"number": pa.array(values, pa.int64())})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def artifact(store: Store) -> Artifact:
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", _numbers(1, 2))
        draft.write_shard("samples", _numbers(3))
        draft.write_bytes("page.html", b"<p>hello</p>")
        draft.path("student").mkdir()
        draft.path("student/weights").write_bytes(b"weights")
        (draft.scratch / "spec.json").write_text("{}")
        return store.commit(draft, {"summary": {"rows": 3}})


def test_a_draft_survives_and_shard_numbers_go_on_after_a_restart(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", _numbers(1))
        draft.write_shard("samples", _numbers(2))
        raise KeyboardInterrupt
    assert not store.exists(STAGE, DIGEST)
    with store.draft(STAGE, DIGEST) as draft:
        draft.path("samples-00000.parquet").unlink()
        draft.write_shard("samples", _numbers(3))
        assert [table["number"].to_pylist() for table in draft.shards("samples")] == [[2], [3]]
        assert sorted(path.name for path in draft.folder.glob("*")) == ["samples-00001.parquet", "samples-00002.parquet"]


def test_temporary_leftovers_are_removed_when_a_draft_is_taken_up(store: Store) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.path(".samples-00000.parquet.77.tmp").write_text("half")
        draft.write_bytes("whole", b"1")
    with store.draft(STAGE, DIGEST) as draft:
        assert [path.name for path in draft.folder.iterdir()] == ["whole"]


def test_a_committed_draft_is_a_complete_artifact(store: Store, artifact: Artifact) -> None:
    assert store.exists(STAGE, DIGEST)
    assert artifact.folder == store.root / STAGE / DIGEST
    assert not artifact.folder.with_suffix(".partial").exists()
    assert (artifact.stage, artifact.fingerprint, artifact.summary) == (STAGE, DIGEST, {"rows": 3})
    assert artifact.table("samples")["number"].to_pylist() == [1, 2, 3]
    rows = {entry["path"]: entry["rows"] for entry in artifact.manifest["files"]}
    assert rows == {"page.html": None, "samples-00000.parquet": 2, "samples-00001.parquet": 1, "student/weights": None}
    store.verify(STAGE, DIGEST)


def test_an_artifact_that_was_never_made_is_missing(store: Store) -> None:
    with pytest.raises(ArtifactMissing, match="run the sampling stage first"):
        store.open(STAGE, DIGEST)


def test_a_folder_without_its_manifest_is_not_an_artifact(store: Store, artifact: Artifact) -> None:
    artifact.path(MANIFEST).unlink()
    with pytest.raises(ArtifactMissing):
        store.open(STAGE, DIGEST)


@pytest.mark.parametrize("name", ["page.html", "samples-00001.parquet", "student/weights"])
def test_a_missing_or_resized_file_is_refused_by_name(store: Store, artifact: Artifact, name: str) -> None:
    content = artifact.path(name).read_bytes()
    for change in (lambda path: path.unlink(), lambda path: path.write_bytes(content[:-1])):
        change(artifact.path(name))
        with pytest.raises(ArtifactError, match=name):
            store.open(STAGE, DIGEST)


def test_verify_finds_a_flipped_byte_that_open_cannot_see(store: Store, artifact: Artifact) -> None:
    path = artifact.path("student/weights")
    path.write_bytes(b"weightz")
    store.open(STAGE, DIGEST)
    with pytest.raises(ArtifactError, match=f"{path}: content differs"):
        store.verify(STAGE, DIGEST)


def test_a_damaged_manifest_is_refused(store: Store, artifact: Artifact) -> None:
    artifact.path(MANIFEST).write_text(artifact.path(MANIFEST).read_text()[:50])
    with pytest.raises(ArtifactError):
        store.open(STAGE, DIGEST)


def test_a_table_that_is_not_there_is_an_error(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="no table 'rationales'"):
        artifact.table("rationales")


def test_a_second_writer_is_refused(store: Store) -> None:
    with store.draft(STAGE, DIGEST), pytest.raises(ArtifactBusy, match=f"{STAGE}/{DIGEST}"), store.draft(STAGE, DIGEST):
        pass


def test_a_root_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file" / "root", Path("/proc/root-of-artifacts")):
        with pytest.raises(RootNotWritable, match=f"{root}: cannot be written"), Store(root).draft(STAGE, DIGEST):
            pass


def test_the_manifest_lists_every_file_and_its_own_version(artifact: Artifact) -> None:
    manifest = json.loads(artifact.path(MANIFEST).read_text())
    there = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
    assert {entry["path"] for entry in manifest["files"]} == there - {MANIFEST}
    assert manifest["schema_version"] == 1
