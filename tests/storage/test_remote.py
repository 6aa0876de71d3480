"""Store on an object store: same guarantees as a local folder, across machines, kills and network faults."""

from __future__ import annotations

import hashlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.artifacts import app
from storage import backend as places
from storage.archive import export, import_
from storage.artifact import MANIFEST
from storage.backend import ObjectStore
from storage.catalogue import record_run
from storage.errors import ArtifactError, BadRoot, LeaseLost, RootUnavailable
from storage.garbage import collect, garbage
from storage.store import Store, open_store
from storage.verify import verify
from tests.support.storage.chains import chain, files
from tests.support.storage.processes import (
    DIGEST,
    SHARDS,
    STAGE,
    Machine,
    numbers,
    set_s3_retries,
    several_machines,
    write,
    write_and_pause,
    write_and_report,
)
from tests.support.storage.s3 import S3, Fault

NAME = f"{STAGE}/{DIGEST}"
ROWS = list(range(SHARDS))


@pytest.fixture
def root(s3: S3) -> str:
    return s3.root()


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return open_store(root, tmp_path / "workspace")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(places, "_S3_SETTINGS", dict(places._S3_SETTINGS))
    set_s3_retries()
    yield


def _another(root: str, folder: Path) -> Store:
    return open_store(root, folder / "another")


def _remote(store: Store) -> ObjectStore:
    assert store.remote is not None
    return store.remote


def _listed(store: Store) -> dict[str, str]:
    return {entry["path"]: entry["sha256"] for entry in store.manifest(STAGE, DIGEST)["files"]}


def _is_whole(store: Store, folder: Path, rows: list[int] = ROWS) -> None:
    """Asserts from a fresh workspace that the artifact is complete, has the expected rows and no leftovers beside it."""
    remote = _remote(store)
    elsewhere = _another(remote.url, folder)
    assert verify(elsewhere, STAGE, DIGEST) == []
    assert elsewhere.open(STAGE, DIGEST).table("samples")["number"].to_pylist() == rows
    assert set(remote.tree(NAME)) == {MANIFEST, *_listed(store)}
    assert remote.names(STAGE) == [DIGEST]


def test_a_local_and_a_remote_root_have_the_same_files(store: Store, tmp_path: Path) -> None:
    local = open_store(str(tmp_path / "local"))
    for where in (local, store):
        write(where)
    assert _listed(local) == _listed(store)
    remote = _remote(store)
    there = {name: hashlib.sha256(remote.read(f"{NAME}/{name}") or b"").hexdigest() for name in remote.tree(NAME)}
    assert {name: digest for name, digest in there.items() if name != MANIFEST} == _listed(local)
    _is_whole(store, tmp_path)
    assert [artifact.fingerprint for artifact in chain(local)] == [artifact.fingerprint for artifact in chain(store)]


def test_a_second_machine_resumes_from_shards_and_scratch(store: Store, root: str, tmp_path: Path) -> None:
    def stop(shard: int) -> None:
        if shard == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(store, stop)
    assert not store.exists(STAGE, DIGEST)
    other, begun = _another(root, tmp_path), list[int]()
    with other.draft(STAGE, DIGEST) as draft:
        assert (draft.scratch / "state").read_text() == "after 1"
        assert [table["number"].to_pylist() for table in draft.shards("samples")] == [[0], [1]]
    write(other, begun.append)
    assert begun == [2]
    assert other.manifest(STAGE, DIGEST)["timing"]["processes"] == 3
    _is_whole(store, tmp_path / "third")


def test_machines_can_resume_each_others_work_repeatedly(store: Store, root: str, tmp_path: Path) -> None:
    """Stale local files of the first machine must not count when it resumes."""
    other = _another(root, tmp_path)
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", numbers(0))
    (store.folder(STAGE, DIGEST).with_suffix(".partial") / "samples-00001.parquet").write_bytes(b"local, never sent")
    store.folder(STAGE, DIGEST).with_suffix(".digests").open("a").write(f"{'0' * 64} samples-00001.parquet\n")
    with other.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", numbers(1))
    for machine in (store, other, store):
        with machine.draft(STAGE, DIGEST) as draft:
            assert [table["number"].to_pylist() for table in draft.shards("samples")] == [[0], [1]]
    write(store)
    _is_whole(store, tmp_path / "third")


def test_a_shard_damaged_on_the_local_disk_is_downloaded_again(store: Store, tmp_path: Path) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", numbers(0))
        path = draft.path("samples-00000.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    with store.draft(STAGE, DIGEST) as draft:
        assert [table["number"].to_pylist() for table in draft.shards("samples")] == [[0]]


def test_a_shard_damaged_in_the_bucket_is_made_again(store: Store, root: str, tmp_path: Path) -> None:
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", numbers(0))
    _remote(store).write(f"{NAME}/samples-00000.parquet", b"PAR1 and no more")
    write(_another(root, tmp_path))
    assert _another(root, tmp_path).open(STAGE, DIGEST).table("samples")["number"].to_pylist() == ROWS


def test_a_kill_after_any_put_gives_the_same_artifact(s3: S3, tmp_path: Path) -> None:
    """Kills the first machine after its first put, then after its second, and so on for every put."""
    for at in itertools.count():
        root = s3.root()
        with Machine(
            write_and_report, root, tmp_path / f"{at} first", environment=s3.environment, shards=2, beat=60.0
        ) as machine:
            killed = list[int]()

            def kill(machine: Machine = machine, killed: list[int] = killed) -> bool:
                killed.append(1)
                machine.signal(signal.SIGKILL)
                machine.wait_for_exit()
                return True

            with s3.proxy.failing(Fault(kill, key=NAME, skip=at, times=1)):
                assert machine.receive() == (None if machine.wait_for_exit() else "done")
        store = open_store(root, tmp_path / f"{at} second")
        if not killed:
            break
        write(store, shards=2)
        record_run(store.backend, "run", {STAGE: DIGEST}, {}, "done")
        collect(store, garbage(store)[0])  # a kill after the manifest put leaves the lease and the scratch folder
        _is_whole(store, tmp_path / f"{at} third", ROWS[:2])
    assert at == 1 + 2 * 2 + 3, "the lease, shards and states, two more files and the manifest"


@pytest.mark.parametrize("fault", [503, "drop before", "drop after"])
def test_failed_requests_are_retried_without_loss(store: Store, s3: S3, tmp_path: Path, fault: int | str) -> None:
    """Several puts fail once; the response of a conditional put that succeeded may be lost, too."""
    with s3.proxy.failing(*(Fault(fault, key=NAME, skip=skip, times=1) for skip in (1, 4, 5, 11))):
        write(store)
    _is_whole(store, tmp_path)


def test_a_request_without_a_timely_response_is_retried(s3: S3, root: str, tmp_path: Path) -> None:
    with (
        s3.proxy.failing(Fault("stall", key=f"{NAME}/samples-00001", times=1), Fault("stall", key=MANIFEST, times=1)),
        Machine(write_and_report, root, tmp_path / "first", environment=s3.environment, read_timeout=0.4) as machine,
    ):
        assert machine.receive() == "done"
    _is_whole(open_store(root, tmp_path / "second"), tmp_path)


@pytest.mark.parametrize("fault", ["drop after", "unnamed"])
def test_a_conditional_put_with_a_lost_response_is_recognised_as_ours(store: Store, s3: S3, fault: str) -> None:
    """Also on a store that does not report the failed condition."""
    remote = _remote(store)
    with s3.proxy.failing(Fault(fault, times=1), Fault("unnamed")):
        assert remote.create("runs/a", b"first")
        assert not remote.create("runs/a", b"second")
        assert remote.create("runs/a", b"first")
    assert remote.read("runs/a") == b"first"


def test_a_conflict_of_concurrent_puts_is_not_an_error(store: Store, s3: S3) -> None:
    with s3.proxy.failing(Fault(409, times=1)):
        assert not _remote(store).create("runs/a", b"first")
    assert _remote(store).create("runs/a", b"first")


def test_one_of_four_machines_writes_and_the_others_name_it(s3: S3, root: str, tmp_path: Path) -> None:
    with several_machines(4, write_and_pause, root, tmp_path, 1, False, environment=s3.environment) as machines:
        waiting = list(machines)
        refused = []
        while len(waiting) > 1:
            done = next((machine for machine in waiting if machine.pipe.poll(0.05)), None)
            if done is not None:
                refused.append(done.receive())
                waiting.remove(done)
        waiting[0].wait_stopped()
        for kind, message in refused:
            assert kind == "ArtifactBusy"
            assert message.startswith(f"{NAME}: process {waiting[0].process.pid} on ")
        waiting[0].signal(signal.SIGCONT)
        assert waiting[0].receive() == "done"
    _is_whole(open_store(root, tmp_path / "fifth"), tmp_path)


def test_a_store_without_conditional_put_is_refused(store: Store, s3: S3) -> None:
    with s3.proxy.failing(Fault("unconditional")), pytest.raises(BadRoot, match=r"no conditional put.*or a local folder"):
        write(store)
    assert _remote(store).names("") == []


def test_a_late_manifest_does_not_replace_the_committed_one(store: Store, s3: S3, root: str, tmp_path: Path) -> None:
    """The first holder is delayed between its final check and its manifest put, while another process commits."""
    other = _another(root, tmp_path)

    def overtaken() -> bool:
        s3.proxy.faults.clear()
        _remote(other).remove(f"{NAME}.lease/000001")
        write(other)
        return True

    with s3.proxy.failing(Fault(overtaken, key=f"{NAME}/{MANIFEST}", times=1)), pytest.raises(LeaseLost):
        write(store)
    _is_whole(other, tmp_path / "third")


def test_downloaded_files_are_checked_once(store: Store, s3: S3, root: str, tmp_path: Path) -> None:
    write(store)
    other = _another(root, tmp_path)
    artifact = other.open(STAGE, DIGEST)
    assert artifact.path("student").is_dir()
    assert artifact.path("student/weights").read_bytes() == b"weights"
    s3.proxy.seen.clear()
    artifact.path("student/weights")
    assert s3.proxy.seen == []

    _remote(store).write(f"{NAME}/page.html", b"<p>hollo</p>")
    for name, key in (("page.html", "page.html"), ("samples-00000.parquet", None)):
        if key is None:
            _remote(store).remove(f"{NAME}/{name}")
        with pytest.raises(
            ArtifactError, match=rf"{name}: (content differs|missing).*; remove {root}/{NAME} and run {STAGE} again"
        ):
            artifact.path(name)
        assert not (artifact.folder / name).exists()


def test_cached_files_of_a_replaced_artifact_are_not_used(store: Store, root: str, tmp_path: Path) -> None:
    """Weights always have the same size: only the manifest shows that they differ."""
    write(store)
    other = _another(root, tmp_path)
    assert other.open(STAGE, DIGEST).path("student/weights").read_bytes() == b"weights"
    _remote(store).remove_all(NAME)
    with store.draft(STAGE, DIGEST) as draft:
        draft.path("student").mkdir()
        draft.path("student/weights").write_bytes(b"WEIGHTS")
        store.commit(draft, {"summary": {}})
    assert other.open(STAGE, DIGEST).path("student/weights").read_bytes() == b"WEIGHTS"
    assert store.open(STAGE, DIGEST).path("student/weights").read_bytes() == b"WEIGHTS"


def test_verify_reads_the_bucket_and_leaves_the_workspace_unchanged(store: Store) -> None:
    write(store)
    before = files(store.root)
    assert verify(store, STAGE, DIGEST) == []
    remote = _remote(store)
    remote.write(f"{NAME}/page.html", b"<p>hollo</p>")
    remote.write(f"{NAME}/stray", b"x")
    remote.remove(f"{NAME}/student/weights")
    assert [str(finding.problem) for finding in verify(store, STAGE, DIGEST)] == [
        "content differs from the manifest",
        "missing",
        "not in the manifest",
    ]
    assert files(store.root) == before


def test_garbage_is_collected_in_the_bucket(store: Store) -> None:
    made = chain(store)
    record_run(store.backend, "run", {"sampling": made[1].fingerprint}, {}, "done")
    with store.draft(STAGE, DIGEST) as draft:
        draft.write_shard("samples", numbers(0))
        found, _ = garbage(store)
        assert {item.key for item in found} == {made[2].name}
        collect(store, found)
    assert {item.key for item in garbage(store)[0]} == {NAME, f"{NAME}.lease"}
    collect(store, garbage(store)[0])
    remote = _remote(store)
    assert {stage: remote.names(stage) for stage in remote.names("") if stage not in ("runs", "pointers")} == {
        made[0].stage: [made[0].fingerprint],
        made[1].stage: [made[1].fingerprint],
    }
    assert verify(store, "sampling", made[1].fingerprint) == []


def test_exports_move_between_local_and_remote_roots(store: Store, tmp_path: Path) -> None:
    local = open_store(str(tmp_path / "local"))
    made = chain(local)[2]
    export(local, "training", made.fingerprint, tmp_path / "up.tar")
    assert len(import_(store, tmp_path / "up.tar")) == 3
    export(store, "training", made.fingerprint, tmp_path / "down.tar")
    back = open_store(str(tmp_path / "back"))
    import_(back, tmp_path / "down.tar")
    assert files(back.root) == files(local.root)


@pytest.mark.parametrize("command", [["status"], ["gc"], ["verify"], ["show", "run"], ["lineage", "training/0123"]])
def test_an_unreachable_root_is_reported_in_one_line(
    s3: S3, command: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_s3_retries(attempts=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        app([*command, "--root", "s3://bucket/x"], prog_name="mind")
    assert ended.value.code == 1
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("mind: s3://bucket/x: ")
    assert line.endswith("make sure that it is reachable, then run again to resume")


def test_a_root_lost_during_work_is_reported_and_work_can_resume(store: Store, s3: S3, tmp_path: Path) -> None:
    set_s3_retries(attempts=2)
    with s3.proxy.failing(Fault(503, key=f"{NAME}/samples-00002")), pytest.raises(RootUnavailable, match="run again to resume"):
        write(store)
    begun = list[int]()
    write(store, begun.append)
    assert begun == [2]
    _is_whole(store, tmp_path)
