"""Other processes in storage tests: they hold leases, write artifacts, are stopped and killed.

They are forked from a process that has imported everything, so a test can use dozens. `host` gives a process another machine's identity.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import s3fs  # noqa: F401 - imported once, in the process from which all others are forked

from storage import artifact, lease
from storage import backend as place
from storage.errors import StorageError
from storage.fingerprint import fingerprint
from storage.store import Store, open_store

STAGE = "sampling"
IDENTITY = {"stage": STAGE}
DIGEST = fingerprint(IDENTITY)
SHARDS = 3
WAIT = 60.0

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["__main__", "tests.support.storage.processes"])


def numbers(*values: int) -> pa.Table:
    return pa.table({"number": pa.array(values, pa.int64())})


class Machine:
    """A process that runs `body(pipe, ...)`; messages go through the pipe."""

    def __init__(
        self, body: Callable[..., None], *arguments: Any, environment: dict[str, str] | None = None, **named: Any
    ) -> None:
        self.pipe, theirs = _FORKS.Pipe()
        self.process = _FORKS.Process(target=_begin, args=(theirs, environment or {}, body, arguments, named))
        self.process.start()
        theirs.close()

    def receive(self, seconds: float = WAIT) -> Any:
        """The next message; None if the process ended without one."""
        if not self.pipe.poll(seconds):
            raise AssertionError(f"nothing was said in {seconds} seconds")
        try:
            return self.pipe.recv()
        except EOFError:
            return None

    def resume(self, word: str = "go on") -> None:
        """Sends the word that lets the process continue."""
        self.pipe.send(word)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait_stopped(self) -> None:
        """Waits until the process has stopped itself."""
        until = time.monotonic() + WAIT
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < until, "it did not stop"
            time.sleep(0.01)

    def wait_for_exit(self) -> int | None:
        """Waits for the process to end; returns its exit code."""
        self.process.join(WAIT)
        return self.process.exitcode

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _begin(
    pipe: Connection, environment: dict[str, str], body: Callable[..., None], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    os.environ.update(environment)
    try:
        body(pipe, *arguments, **named)
    except StorageError as error:
        pipe.send((type(error).__name__, str(error)))


def _pretend(host: str | None, beat: float = 0.05, patience: float = lease.STALE_SECONDS) -> None:
    if host is not None:
        lease.this_host = lambda: host  # type: ignore[assignment]
    lease.HEARTBEAT_SECONDS = beat  # type: ignore[misc]
    lease.STALE_SECONDS = patience  # type: ignore[misc]


def hold_lease(pipe: Connection, root: str, workspace: Path, **pretend: Any) -> None:
    """Takes a lease on a message and holds it until the next message."""
    _pretend(**{"host": None, **pretend})
    where = open_store(root, workspace).backend
    pipe.send("ready")
    pipe.recv()
    with lease.hold(where, "artifact.lease", "training/abc"):
        pipe.send("won")
        pipe.recv()


def observe_lease(pipe: Connection, folder: Path, shift: float) -> None:
    """Reports whether a lease is live, with a wrong wall clock."""
    right = time.time
    time.time = lambda: right() + shift
    where = place.LocalBackend(folder)
    found = lease.last(where, "artifact.lease")
    assert found is not None
    pipe.send(lease.is_live(where, "artifact.lease", found, 0.6))


def set_s3_retries(read_timeout: float = 60.0, attempts: int = 3) -> None:
    """Lowers the retries and timeouts of the S3 library, so that tests do not wait."""
    place._S3_SETTINGS["config_kwargs"] = {  # type: ignore[index]
        "retries": {"mode": "standard", "max_attempts": attempts},
        "connect_timeout": 2,
        "read_timeout": read_timeout,
    }


def write(store: Store, pause: Callable[[int], None] = lambda shard: None, shards: int = SHARDS) -> None:
    """A small stage: resumable shards, a state file in the scratch folder, and files in a subfolder."""
    with store.draft(STAGE, DIGEST) as draft:
        if store.exists(STAGE, DIGEST):
            draft.lease.finished = True
            return
        there = [row for shard in draft.shards("samples") for row in shard["number"].to_pylist()]
        for number in (number for number in range(shards) if number not in there):
            pause(number)
            draft.write_shard("samples", numbers(number))
            (draft.scratch / "state").write_text(f"after {number}")
            if draft.mirror is not None:
                draft.mirror.send_changes(last="state")
        draft.write_bytes("page.html", b"<p>hello</p>")
        draft.path("student").mkdir(exist_ok=True)
        draft.path("student/weights").write_bytes(b"weights")
        store.commit(draft, {"identity": IDENTITY, "summary": {"rows": shards}})


def write_and_report(
    pipe: Connection, root: str, workspace: Path, read_timeout: float = 60.0, shards: int = SHARDS, **pretend: Any
) -> None:
    """Writes the artifact and reports "done"."""
    _pretend(**{"host": None, **pretend})
    set_s3_retries(read_timeout)
    write(open_store(root, workspace), shards=shards)
    pipe.send("done")


def write_and_pause(pipe: Connection, root: str, workspace: Path, at: int, within: bool, **pretend: Any) -> None:
    """Writes the artifact, but stops before shard `at`, or (`within`) after writing its temporary file."""
    _pretend(**{"host": None, **pretend})

    def pause(shard: int) -> None:
        if shard != at:
            return
        if not within:
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        written = artifact.write_parquet

        def stopping(path: Path, table: pa.Table, look: Callable[[], None]) -> None:
            def stop() -> None:
                os.kill(os.getpid(), signal.SIGSTOP)
                look()

            written(path, table, stop)

        artifact.write_parquet = stopping

    write(open_store(root, workspace), pause)
    pipe.send("done")


@contextmanager
def several_machines(count: int, body: Callable[..., None], *arguments: Any, **named: Any) -> Iterator[list[Machine]]:
    """Several machines that run the same body."""
    machines = [Machine(body, *arguments, **named) for _ in range(count)]
    try:
        yield machines
    finally:
        for machine in machines:
            machine.__exit__()
