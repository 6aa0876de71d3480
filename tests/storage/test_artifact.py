from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import atomic
from storage.errors import ArtifactError, Damaged, LeaseLost
from storage.store import Store, open_store
from tests.support.storage.chains import commit_artifact
from tests.support.storage.processes import DIGEST, STAGE, numbers


def _rows(store: Store) -> list[list[int]]:
    with store.draft(STAGE, DIGEST) as draft:
        return [table["number"].to_pylist() for table in draft.shards("rows")]


def _begin(store: Store) -> list[Path]:
    """A draft of three shards, left unfinished."""
    with store.draft(STAGE, DIGEST) as draft:
        for number in range(3):
            draft.write_shard("rows", numbers(number, number + 10))
        return sorted(draft.folder.glob("rows-*"))


def test_shards_survive_a_restart_and_numbering_continues(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("rows", numbers(1))
        draft.write_shard("rows", numbers(2))
        raise KeyboardInterrupt
    assert not store.exists(STAGE, DIGEST)
    with store.draft(STAGE, DIGEST) as draft:
        draft.path("rows-00000.parquet").unlink()
        draft.write_shard("rows", numbers(3))
        assert [table["number"].to_pylist() for table in draft.shards("rows")] == [[2], [3]]
        assert sorted(path.name for path in draft.folder.glob("*")) == ["rows-00001.parquet", "rows-00002.parquet"]


@given(st.data())
def test_any_damaged_shard_of_a_draft_is_removed(tmp_path: Path, data: st.DataObject) -> None:
    store = open_store(str(tmp_path / str(len(list(tmp_path.iterdir())))))
    path = _begin(store)[1]
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut short"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert _rows(store) == [[0, 10], [2, 12]]
    assert not path.exists()


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_damaged_shard_is_found_without_its_digest(store: Store, lines: int) -> None:
    """A kill or the disk may have removed the digest file or truncated its last line."""
    path = _begin(store)[1]
    notes = path.parent.with_suffix(".digests")
    notes.write_bytes(b"".join(notes.read_bytes().splitlines(keepends=True)[:lines])[:-9])
    path.write_bytes(path.read_bytes()[:-20])
    assert _rows(store) == [[0, 10], [2, 12]]


def test_an_intact_draft_is_kept_without_digests(store: Store) -> None:
    paths = _begin(store)
    paths[0].parent.with_suffix(".digests").unlink()
    assert _rows(store) == [[0, 10], [1, 11], [2, 12]]
    (paths[0].parent.with_suffix(".digests")).write_bytes(b"\xff\x00 torn")
    assert _rows(store) == [[0, 10], [1, 11], [2, 12]]


def test_a_shard_of_a_newer_version_is_refused_and_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "SCHEMA_VERSION", 2)
        paths = _begin(store)
    for notes in (True, False):
        if not notes:
            paths[0].parent.with_suffix(".digests").unlink()
        with pytest.raises(ArtifactError, match=r"newer version of MIND \(schema 2\); upgrade to read it"):
            _rows(store)
        assert all(path.exists() for path in paths)


def test_clearing_a_table_leaves_the_others(store: Store) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("rows", numbers(1))
        draft.write_shard("base", numbers(2))
        draft.clear("rows")
        draft.write_shard("rows", numbers(3))
    with store.draft(STAGE, DIGEST) as draft:
        assert [table["number"].to_pylist() for name in ("rows", "base") for table in draft.shards(name)] == [[3], [2]]


def test_writing_a_table_again_replaces_it(store: Store) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_table("rows", numbers(1))
        draft.write_table("rows", numbers(2))
    with store.draft(STAGE, DIGEST) as draft:
        assert store.commit(draft, {"summary": {}}).table("rows")["number"].to_pylist() == [2]


def test_nothing_is_written_after_another_process_has_committed(store: Store) -> None:
    with pytest.raises(LeaseLost), store.draft(STAGE, DIGEST) as draft:
        store.backend.write(f"{STAGE}/{DIGEST}/manifest.json", b"{}")
        draft.write_shard("rows", numbers(1))
    assert store.backend.names(f"{STAGE}/{DIGEST}.partial") == []


def test_a_table_is_read_whole_in_batches_or_by_column(store: Store) -> None:
    artifact = commit_artifact(store, "sampling")
    assert artifact.table("rows")["number"].to_pylist() == [0, 1, 2, 3]
    assert [batch["number"].to_pylist() for batch in artifact.batches("rows", rows=2)] == [[0, 1], [2], [3]]
    assert artifact.table("rows", []).num_columns == 0
    assert (artifact.stage, artifact.name, artifact.summary) == ("sampling", f"sampling/{artifact.fingerprint}", {"rows": 4})


def test_a_missing_table_is_an_error(store: Store) -> None:
    with pytest.raises(ArtifactError, match="has no table 'rationales'"):
        commit_artifact(store, "sampling").table("rationales")


def test_reading_finds_a_damaged_shard_of_a_finished_artifact(store: Store) -> None:
    artifact = commit_artifact(store, "sampling")
    path = artifact.path("rows-00000.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)
    for read in (lambda: artifact.table("rows"), lambda: list(artifact.batches("rows"))):
        with pytest.raises(Damaged, match=f"{path}: damaged .*; remove {artifact.folder} and run its stage again"):
            read()


def test_the_scratch_folder_survives_until_the_commit(store: Store) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        (draft.scratch / "state").write_text("1")
    with store.draft(STAGE, DIGEST) as draft:
        assert (draft.scratch / "state").read_text() == "1"
        store.commit(draft, {"summary": {}})
    assert [path.name for path in (store.root / STAGE).iterdir()] == [DIGEST]
