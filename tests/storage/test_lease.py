from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from storage import lease
from storage.backend import Backend, LocalBackend, ObjectStore
from storage.errors import ArtifactBusy, ArtifactError, LeaseLost, RootNotWritable
from storage.store import open_store
from tests.support.storage.processes import (
    DIGEST,
    SHARDS,
    STAGE,
    Machine,
    hold_lease,
    observe_lease,
    several_machines,
    write_and_pause,
    write_and_report,
)
from tests.support.storage.s3 import S3

PREFIX = "artifact.lease"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A root and the environment variables that a process needs to reach it."""
    if request.param == "local":
        return str(tmp_path / "root"), {}
    s3: S3 = request.getfixturevalue("s3")
    return s3.root(), s3.environment


@pytest.fixture
def place(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path)


def _alter(place: Backend, **changes: Any) -> lease.Holder:
    """Changes fields of the current lease file."""
    number = max(int(name) for name in place.names(PREFIX))
    key = f"{PREFIX}/{number:06d}"
    content = place.read(key)
    assert content is not None
    place.write(key, orjson.dumps({**orjson.loads(content), **changes}))
    found = lease.last(place, PREFIX)
    assert found is not None
    return found


def test_one_of_four_processes_gets_the_lease_and_a_kill_frees_it(root: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, environment = root
    with several_machines(4, hold_lease, url, tmp_path / "workspace", environment=environment) as machines:
        assert [machine.receive() for machine in machines] == ["ready"] * 4
        for machine in machines:
            machine.resume()
        answers = [machine.receive() for machine in machines]
        (winner,) = [machine for machine, answer in zip(machines, answers, strict=True) if answer == "won"]
        refused = [answer for answer in answers if answer != "won"]
        assert len(refused) == 3
        for kind, message in refused:
            assert kind == "ArtifactBusy"
            assert message.startswith(f"training/abc: process {winner.process.pid} on ")
            assert message.endswith("is writing it; wait for it to end, or stop it")

        where = open_store(url, tmp_path / "workspace").backend
        with pytest.raises(ArtifactBusy, match=str(winner.process.pid)), lease.hold(where, PREFIX, "it"):
            pass
        winner.signal(signal.SIGKILL)
        winner.wait_for_exit()
        with lease.hold(where, PREFIX, "it") as held:
            assert held.holder.number == 2
            assert where.names(PREFIX) == ["000002"]


def test_a_lease_is_released_when_its_body_raises(place: LocalBackend) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(place, PREFIX, "it"):
        raise ZeroDivisionError
    found = lease.last(place, PREFIX)
    assert found is not None
    assert found.released
    assert not lease.is_live(place, PREFIX, found, 60)
    assert not any(thread.name == "lease heartbeat" for thread in threading.enumerate())


def test_the_lease_of_a_finished_artifact_is_removed(place: LocalBackend) -> None:
    with lease.hold(place, PREFIX, "it") as held:
        held.finished = True
    assert lease.last(place, PREFIX) is None
    assert not (place.root / PREFIX).exists()


def test_one_process_cannot_hold_a_lease_twice(place: LocalBackend) -> None:
    with lease.hold(place, PREFIX, "it"), pytest.raises(ArtifactBusy), lease.hold(place, PREFIX, "it"):
        pass


def test_a_reused_process_id_is_not_the_holder(place: LocalBackend) -> None:
    with lease.hold(place, PREFIX, "it") as held:
        assert lease.is_live(place, PREFIX, held.holder, 0)
        assert not lease.is_live(place, PREFIX, _alter(place, process="0"), 60)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"[]",
        b"null",
        b'{"host": "here"}',
        b'{"host": "here", "pid": "x", "process": "p", "number": 1}',
        b'{"host": "here", "pid": -1, "process": "p", "number": 1}',
        b'{"host": "here", "pid": 1, "process": "p", "number": 1, "needs": 5}',
        b'{"host": "here", "pid": 1, "process": "p", "number": 1, "seconds_before": "a"}',
        b'{"host": "here", "pid": 1, "process": "p", "number": 1, "seconds": Infinity}',
    ],
)
def test_a_damaged_lease_has_no_holder(place: LocalBackend, content: bytes) -> None:
    place.write(f"{PREFIX}/000007", content)
    with lease.hold(place, PREFIX, "it") as held:
        assert held.holder.number == 8


def test_a_lease_with_unknown_fields_is_respected(place: LocalBackend) -> None:
    with lease.hold(place, PREFIX, "it"):
        _alter(place, colour="blue")
        with pytest.raises(ArtifactBusy), lease.hold(place, PREFIX, "it"):
            pass


@pytest.mark.parametrize("shift", [0.0, 86_400.0, -86_400.0])
def test_a_remote_holder_is_live_while_its_heartbeat_changes_despite_clocks(tmp_path: Path, shift: float) -> None:
    with Machine(hold_lease, str(tmp_path), tmp_path, host="elsewhere") as holder:
        assert holder.receive() == "ready"
        holder.resume()
        assert holder.receive() == "won"
        with Machine(observe_lease, tmp_path, shift) as observer:
            assert observer.receive() is True
        holder.signal(signal.SIGSTOP)
        holder.wait_stopped()
        with Machine(observe_lease, tmp_path, shift) as observer:
            assert observer.receive() is False


def test_a_stopped_remote_holder_is_replaced_after_the_timeout(place: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.4)
    with lease.hold(place, PREFIX, "it"):
        pass
    _alter(place, host="elsewhere", released=False)
    began = time.monotonic()
    with lease.hold(place, PREFIX, "it") as held:
        assert 0.4 <= time.monotonic() - began < 60
        assert held.holder.number == 2


def test_a_released_remote_lease_is_taken_at_once(place: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease.hold(place, PREFIX, "it"):
        pass
    _alter(place, host="elsewhere")
    monkeypatch.setattr(lease, "STALE_SECONDS", 3600.0)
    with lease.hold(place, PREFIX, "it") as held:
        assert held.holder.number == 2


def test_seconds_and_numbers_accumulate_over_holders(place: LocalBackend) -> None:
    for number, seconds, before in ((1, 100.0, 0.0), (2, 20.0, 100.0), (3, 3.0, 120.0)):
        with lease.hold(place, PREFIX, "it") as held:
            assert (held.holder.number, held.holder.seconds_before) == (number, before)
        _alter(place, seconds=seconds)
    with lease.hold(place, PREFIX, "it") as held:
        assert held.holder.seconds_before == 123.0


def test_seconds_of_a_killed_holder_count_until_its_last_heartbeat(tmp_path: Path, place: LocalBackend) -> None:
    with Machine(hold_lease, str(tmp_path), tmp_path, host=None) as holder:
        assert holder.receive() == "ready"
        holder.resume()
        assert holder.receive() == "won"
        until = time.monotonic() + 60
        while (beaten := lease.last(place, PREFIX)) is None or beaten.seconds <= 0.2:
            assert time.monotonic() < until, "no beat came"
            time.sleep(0.05)
        holder.signal(signal.SIGKILL)
        holder.wait_for_exit()
    with lease.hold(place, PREFIX, "it") as held:
        assert 0.2 < held.holder.seconds_before < 120


def test_a_replaced_holder_loses_its_lease_at_once(place: LocalBackend) -> None:
    with (
        pytest.raises(LeaseLost, match="lost the lease: another process has taken over"),
        lease.hold(place, PREFIX, "it") as held,
    ):
        place.create(f"{PREFIX}/000002", b"{}")
        held.check()
    assert place.read(f"{PREFIX}/000002") == b"{}"


def test_a_holder_loses_its_lease_after_any_number_of_successors(place: LocalBackend) -> None:
    for leave in (["000005"], []):
        with pytest.raises(LeaseLost), lease.hold(place, PREFIX, "it") as held:
            place.remove_all(PREFIX)
            for name in leave:
                place.write(f"{PREFIX}/{name}", b"{}")
            held.beat()
            held.check()
        assert place.names(PREFIX) == leave
        place.remove_all(PREFIX)


def test_an_error_after_losing_the_lease_is_reported_as_lease_lost(place: LocalBackend) -> None:
    """The successor has moved the files: the message must not suggest missing permissions."""
    with pytest.raises(LeaseLost), lease.hold(place, PREFIX, "it"):
        place.remove_all(PREFIX)
        raise RootNotWritable("no such file or directory; correct root or its permissions")


def test_keyboard_interrupt_passes_through_a_lease(place: LocalBackend) -> None:
    with pytest.raises(KeyboardInterrupt), lease.hold(place, PREFIX, "it"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("within", [False, True], ids=["between shards", "in the middle of a shard"])
def test_a_paused_holder_writes_nothing_after_a_takeover(
    root: tuple[str, dict[str, str]], tmp_path: Path, within: bool
) -> None:
    url, environment = root
    arguments = (write_and_pause, url, tmp_path / "first", SHARDS - 1, within)
    with Machine(*arguments, environment=environment, host="elsewhere", beat=0.2) as paused:
        paused.wait_stopped()
        with Machine(
            write_and_report, url, tmp_path / "second", environment=environment, host="here", patience=1.0
        ) as successor:
            assert successor.receive() == "done"
        store = open_store(url, tmp_path / "second")
        before = _everything(store.backend, f"{STAGE}/{DIGEST}")
        paused.signal(signal.SIGCONT)
        kind, message = paused.receive()
        assert (kind, "another process has taken over" in message) == ("LeaseLost", True)
        assert _everything(store.backend, f"{STAGE}/{DIGEST}") == before
        assert store.open(STAGE, DIGEST).table("samples")["number"].to_pylist() == list(range(SHARDS))
        assert store.manifest(STAGE, DIGEST)["timing"]["processes"] == 2


def test_a_paused_holder_stops_while_its_successor_is_working(tmp_path: Path) -> None:
    url = str(tmp_path / "root")
    with Machine(write_and_pause, url, tmp_path, 2, True, host="elsewhere") as paused:
        paused.wait_stopped()
        with Machine(write_and_pause, url, tmp_path, 2, False, host="here", patience=0.5) as successor:
            successor.wait_stopped()
            paused.signal(signal.SIGCONT)
            assert paused.receive()[0] == "LeaseLost"
            successor.signal(signal.SIGCONT)
            assert successor.receive() == "done"
    assert open_store(url).open(STAGE, DIGEST).table("samples")["number"].to_pylist() == list(range(SHARDS))


def _everything(place: Backend, folder: str) -> dict[str, bytes | None]:
    if isinstance(place, ObjectStore):
        return {name: place.read(f"{folder}/{name}") for name in place.tree(folder)}
    assert isinstance(place, LocalBackend)
    return {str(path): path.read_bytes() for path in (place.root / folder).rglob("*") if path.is_file()}


def test_a_temporary_store_failure_does_not_stop_the_heartbeat(place: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    with lease.hold(place, PREFIX, "it") as held:
        place.root.chmod(0o500)
        (place.root / PREFIX).chmod(0o500)
        time.sleep(0.1)
        place.root.chmod(0o700)
        (place.root / PREFIX).chmod(0o700)
        beat = held.holder.beat
        until = time.monotonic() + 10
        while held.holder.beat <= beat:
            assert time.monotonic() < until, "it beats no more"
            time.sleep(0.01)
        held.check()


def test_a_lease_on_an_unwritable_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written"), lease.hold(LocalBackend(tmp_path / "file"), PREFIX, "it"):
        pass


def test_a_lease_file_of_an_earlier_version_is_refused_and_named(place: LocalBackend) -> None:
    (place.root / PREFIX).write_text('{"host": "here", "pid": 1, "started": "1", "beat": 0}')
    message = f"{place.root / PREFIX} is a lease of an earlier version of MIND; .* remove this file"
    with pytest.raises(ArtifactBusy, match=message), lease.hold(place, PREFIX, "it"):
        pass


@pytest.mark.parametrize("name", ["²", "9" * 200, "1"])
def test_a_file_that_is_no_number_is_no_lease(place: LocalBackend, name: str) -> None:
    place.write(f"a.lease/{name}", b"x")
    assert lease.last(place, "a.lease") is None
    with lease.hold(place, "a.lease", "a") as held:
        assert held.holder.number == 1
