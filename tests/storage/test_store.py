from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifact import MANIFEST, Artifact
from storage.errors import ArtifactBusy, ArtifactError, ArtifactMissing, BadRoot, RootNotWritable
from storage.fingerprint import file_digest
from storage.store import MANIFEST_VERSION, Store, open_store, parse_manifest
from storage.verify import verify
from tests.support.storage.chains import VERSION_1, commit_artifact, files
from tests.support.storage.processes import DIGEST, STAGE, numbers


@pytest.fixture
def artifact(store: Store) -> Artifact:
    return commit_artifact(store, STAGE)


def test_resuming_a_draft_removes_temporary_files_at_any_depth(store: Store) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.path("student").mkdir()
        draft.path(".rows-00000.parquet.77.tmp").write_text("half")
        draft.path("student/.weights.77.tmp").write_text("half")
        draft.write_bytes("whole", b"1")
    with store.draft(STAGE, DIGEST) as draft:
        assert files(draft.folder) == {"whole": b"1"}


def test_a_committed_draft_is_a_complete_artifact(store: Store, artifact: Artifact) -> None:
    assert store.exists(STAGE, artifact.fingerprint)
    assert artifact.folder == store.root / STAGE / artifact.fingerprint
    assert [path.name for path in artifact.folder.parent.iterdir()] == [artifact.fingerprint]
    assert store.fingerprints(STAGE) == [artifact.fingerprint]
    rows = {entry["path"]: entry["rows"] for entry in artifact.manifest["files"]}
    assert rows == {"rows-00000.parquet": 3, "rows-00001.parquet": 1, "student/weights": None}
    assert verify(store, STAGE, artifact.fingerprint) == []


def test_the_manifest_lists_every_file_with_its_hash_and_its_own_version(artifact: Artifact) -> None:
    manifest = json.loads(artifact.path(MANIFEST).read_text())
    there = {name: file_digest(artifact.path(name)) for name in files(artifact.folder)}
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} | {MANIFEST: there[MANIFEST]} == there
    assert manifest["schema_version"] == MANIFEST_VERSION


def test_an_artifact_that_was_never_made_is_missing(store: Store) -> None:
    with pytest.raises(ArtifactMissing, match=f"{store.root}/{STAGE}/{DIGEST}: no .* artifact; run the {STAGE} stage first"):
        store.open(STAGE, DIGEST)


def test_a_folder_without_a_manifest_is_made_again(store: Store, artifact: Artifact) -> None:
    artifact.path(MANIFEST).unlink()
    artifact.path("stray").write_text("x")
    assert not store.exists(STAGE, artifact.fingerprint)
    with pytest.raises(ArtifactMissing):
        store.open(STAGE, artifact.fingerprint)
    assert "stray" not in files(commit_artifact(store, STAGE).folder)


@pytest.mark.parametrize("name", ["rows-00001.parquet", "student/weights"])
def test_a_missing_or_resized_file_is_refused_and_named(store: Store, artifact: Artifact, name: str) -> None:
    content = artifact.path(name).read_bytes()
    for change in (lambda path: path.unlink(), lambda path: path.write_bytes(content[:-1])):
        change(artifact.path(name))
        with pytest.raises(ArtifactError, match=f"{name}: missing or of the wrong size; remove {artifact.folder} and run"):
            store.open(STAGE, artifact.fingerprint)


@given(st.data())
def test_an_altered_manifest_is_read_safely_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Any altered, removed or replaced field gives no other kind of error and no path outside the artifact."""
    document = orjson.loads(next(VERSION_1.glob(f"questions/*/{MANIFEST}")).read_bytes())
    where: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        inside = where[key]
        if not isinstance(inside, dict | list) or not inside or data.draw(st.booleans()):
            break
        where = inside
    where[key] = data.draw(st.sampled_from([None, 7, -1, "x", "../../x", "/etc/passwd", "a//b", [], {}, [None], {"path": 3}]))
    try:
        found = parse_manifest(orjson.dumps(document), "here")
    except ArtifactError as error:
        assert str(error).startswith("here: damaged") or "newer version" in str(error)
        return
    for entry in found["files"]:
        assert (tmp_path / entry["path"]).resolve().is_relative_to(tmp_path.resolve())


def test_a_damaged_manifest_is_refused(store: Store, artifact: Artifact) -> None:
    artifact.path(MANIFEST).write_text(artifact.path(MANIFEST).read_text()[:50])
    with pytest.raises(ArtifactError, match=f"{MANIFEST}: damaged; remove its folder and run its stage again"):
        store.open(STAGE, artifact.fingerprint)


def test_a_manifest_in_another_artifacts_folder_is_refused(store: Store, artifact: Artifact) -> None:
    artifact.folder.rename(artifact.folder.with_name(DIGEST))
    with pytest.raises(ArtifactError, match=f"belongs to {artifact.name}"):
        store.open(STAGE, DIGEST)


def test_a_manifest_of_a_newer_version_is_refused_with_the_remedy(store: Store, artifact: Artifact) -> None:
    path = artifact.path(MANIFEST)
    path.write_bytes(orjson.dumps({"schema_version": MANIFEST_VERSION + 1, "all": "else may differ"}))
    with pytest.raises(ArtifactError, match=rf"newer version of MIND \(schema {MANIFEST_VERSION + 1}\); upgrade to read it"):
        store.open(STAGE, artifact.fingerprint)


def test_an_artifact_of_version_1_is_read() -> None:
    store = open_store(str(VERSION_1))
    (digest,) = store.fingerprints("questions")
    artifact = store.open("questions", digest)
    assert artifact.table("questions").num_rows == 12
    assert artifact.manifest["timing"]["processes"] == 1
    assert verify(store, "questions", digest) == []


def test_a_second_writer_is_refused(store: Store) -> None:
    with store.draft(STAGE, DIGEST), pytest.raises(ArtifactBusy, match=f"{STAGE}/{DIGEST}"), store.draft(STAGE, DIGEST):
        pass


def test_an_unwritable_root_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file" / "root", Path("/proc/root-of-artifacts")):
        with pytest.raises(RootNotWritable, match=f"{root}: cannot be written"), Store(root).draft(STAGE, DIGEST):
            pass


def test_seconds_and_processes_of_an_artifact_accumulate(store: Store) -> None:
    for number in range(1, 4):
        with store.draft(STAGE, DIGEST) as draft:
            draft.write_shard("rows", numbers(number))
            key = f"{STAGE}/{DIGEST}.lease/{number:06d}"
        content = store.backend.read(key)
        assert content is not None
        store.backend.write(key, orjson.dumps({**orjson.loads(content), "seconds": 100.0}))
    with store.draft(STAGE, DIGEST) as draft:
        artifact = store.commit(draft, {"summary": {}, "timing": {"started": "then"}})
    timing = artifact.manifest["timing"]
    assert timing["processes"] == 4
    assert 300 <= timing["seconds"] < 330
    assert timing["started"] == "then"


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("memory://x", "memory is not an object store"),
        ("http://127.0.0.1:1/x", "http is not an object store"),
        ("zip://x", "zip is not an object store"),
        ("file:///tmp/x", "give a local folder as a plain path"),
        ("a\0b", "contains a NUL"),
        (__file__, "is a file; give a folder"),
    ],
)
def test_a_root_that_cannot_hold_artifacts_is_refused(root: str, said: str) -> None:
    with pytest.raises(BadRoot, match=said):
        open_store(root)
