from __future__ import annotations

from pathlib import Path

import pytest

from storage.backend import ObjectStore
from storage.errors import ArtifactError, LeaseLost
from storage.mirror import Mirror
from tests.support.storage.chains import files
from tests.support.storage.s3 import S3

NAME = "sampling/0123456789abcdef"


@pytest.fixture
def remote(s3: S3) -> ObjectStore:
    return ObjectStore(s3.root())


@pytest.fixture
def here(remote: ObjectStore, tmp_path: Path) -> Mirror:
    return _machine(remote, tmp_path / "here")


def _machine(remote: ObjectStore, root: Path) -> Mirror:
    for kind in ("partial", "scratch"):
        (root / f"{NAME}.{kind}").mkdir(parents=True)
    mirror = Mirror(remote, root, NAME)
    remote.write(f"{NAME}.lease/000001", b"{}")
    mirror.take_up(1)
    return mirror


def _write(mirror: Mirror, name: str, content: str, kind: str = "partial") -> None:
    path = mirror.root / f"{NAME}.{kind}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _there(remote: ObjectStore) -> dict[str, bytes | None]:
    return {name: remote.read(f"{NAME}{name}") for name in remote.tree("sampling") for name in [name.removeprefix(NAME[9:])]}


def test_sent_files_are_stored_and_taken_up_by_another_machine(here: Mirror, remote: ObjectStore, tmp_path: Path) -> None:
    _write(here, "a.parquet", "a")
    here.send("a.parquet", new=True)
    _write(here, "step-1/weights", "w", "scratch")
    _write(here, "never-sent", "x")
    other = _machine(remote, tmp_path / "other")
    assert files(other.root / f"{NAME}.partial") == {"a.parquet": b"a"}
    here.send_changes(last="counts")
    assert other.take_up(2) == ["never-sent"]
    assert files(other.root / f"{NAME}.partial") == files(here.root / f"{NAME}.partial")
    assert files(other.root / f"{NAME}.scratch") == {"step-1/weights": b"w"}


def test_taking_up_a_draft_makes_it_equal_to_the_remote(here: Mirror, remote: ObjectStore) -> None:
    for name in ("kept", "altered", "gone"):
        _write(here, name, name)
        here.send(name)
    _write(here, "altered", "otherwise")
    _write(here, "local", "never committed")
    remote.remove(f"{NAME}/gone")
    remote.write(f"{NAME}/new", b"new")
    here.take_up(2)
    assert files(here.root / f"{NAME}.partial") == {"kept": b"kept", "altered": b"altered", "new": b"new"}


def test_only_changed_files_are_fetched_by_the_next_lease(here: Mirror, s3: S3) -> None:
    for name in ("a", "b"):
        _write(here, name, name)
        here.send(name)
    _write(here, "b", "B")
    assert here.take_up(2) == ["b"]
    assert here.take_up(3) == []
    assert sorted(here.take_up(5)) == ["a", "b"]
    assert s3.port


@pytest.mark.parametrize("record", [b"", b"\n", b'1\n["sampling', b"\x00\x00\x00", b"7\n"])
def test_a_damaged_sync_record_only_causes_a_new_download(here: Mirror, record: bytes) -> None:
    _write(here, "a", "a")
    here.send("a")
    (here.root / f"{NAME}.synced").write_bytes(record)
    assert here.take_up(2) == ["a"]
    assert files(here.root / f"{NAME}.partial") == {"a": b"a"}


def test_changes_are_sent_in_order_before_old_files_are_removed(here: Mirror, remote: ObjectStore, s3: S3) -> None:
    _write(here, "step-1/weights", "1", "scratch")
    _write(here, "counts", "1", "scratch")
    here.send_changes(last="counts")
    _write(here, "step-2/weights", "2", "scratch")
    _write(here, "counts", "2", "scratch")
    (here.root / f"{NAME}.scratch" / "step-1" / "weights").unlink()
    s3.proxy.seen.clear()
    here.send_changes(last="counts")
    sent = [(method, key.rpartition(".scratch/")[2]) for method, key in s3.proxy.seen if method in ("PUT", "DELETE")]
    assert sent == [("PUT", "step-2/weights"), ("PUT", "counts"), ("DELETE", "step-1/weights")]
    s3.proxy.seen.clear()
    here.send_changes(last="counts")
    assert not [method for method, _ in s3.proxy.seen if method in ("PUT", "DELETE")]


def test_a_new_file_never_overwrites_one_of_another_process(here: Mirror, remote: ObjectStore) -> None:
    """A late request of a replaced holder may arrive minutes after the takeover."""
    remote.write(f"{NAME}/rows-00000.parquet", b"of its successor")
    _write(here, "rows-00000.parquet", "ours")
    with pytest.raises(LeaseLost, match="another process has written this file"):
        here.send("rows-00000.parquet", new=True)
    assert remote.read(f"{NAME}/rows-00000.parquet") == b"of its successor"


def test_a_key_outside_the_folder_is_refused(here: Mirror, remote: ObjectStore, tmp_path: Path) -> None:
    remote.write(f"{NAME}/../../../evil", b"x")
    before = files(tmp_path)
    try:
        here.take_up(2)
    except ArtifactError as error:
        assert "unsafe path" in str(error)
    assert {name for name in files(tmp_path) if "synced" not in name} == {name for name in before if "synced" not in name}


def test_a_replaced_holder_sends_nothing(here: Mirror, remote: ObjectStore) -> None:
    _write(here, "counts", "1", "scratch")
    here.send_changes()
    remote.write(f"{NAME}.lease/000002", b"{}")
    _write(here, "counts", "22", "scratch")
    with pytest.raises(LeaseLost, match="another process has taken over"):
        here.send_changes()
    assert remote.read(f"{NAME}.scratch/counts") == b"1"


def test_derived_scratch_files_are_not_sent_but_artifact_files_are(here: Mirror, remote: ObjectStore) -> None:
    _write(here, "derived/tokens", "t", "scratch")
    _write(here, "derived/table", "t")
    here.send_changes()
    assert remote.tree(f"{NAME}.scratch") == {}
    assert list(remote.tree(NAME)) == ["derived/table"]
