"""One writer per artifact: a numbered lease with a heartbeat.

The leases on one artifact are documents numbered from 1; the highest number is valid. A process that wants to write reads it and, if its
holder is no longer alive, *creates* the next number; only one of several processes can succeed. Taking over therefore needs no lock, no
rename and no common clock:

- A holder on this machine is alive while its process exists. Processes are told apart by their start time, counted by the kernel from boot.
- A holder on another machine is alive while its heartbeat changes. The observer measures time with its own monotonic clock, so a wrong or
  jumping wall clock on either side has no effect.

A holder that finds a higher number than its own was considered dead by another process, and stops.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

import orjson
import psutil
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from storage.backend import Backend, LocalBackend
from storage.errors import ArtifactBusy, ArtifactError, LeaseLost

HEARTBEAT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 30.0
FORGOTTEN_SECONDS: Final = 7 * 24 * 3600.0
"""A lease of another machine without a heartbeat for this long is considered abandoned."""
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_NUMBER: Final = re.compile(r"[0-9]{6,12}")


@dataclass(frozen=True)
class Holder:
    """Content of a lease: its holder, its duration by the holder's clock, the time spent by earlier holders, and the artifacts it reads."""

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    process: str
    number: PositiveInt
    beat: NonNegativeInt = 0
    seconds: _Seconds = 0.0
    seconds_before: _Seconds = 0.0
    released: bool = False
    needs: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


_HOLDER: Final = TypeAdapter(Holder)


def this_host() -> str:
    """The machine's name, its boot id and its process namespace, within which a process id is unique."""
    name, boot, space = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    known = [boot.read_text().strip()[:8], str(space.readlink())] if boot.exists() and space.exists() else []
    return " ".join([name, *known])


def process_identity(pid: int) -> str | None:
    """Distinguishes a live process from a later one with the same id; None if no such process exists."""
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        if psutil.LINUX:
            # Field 22: clock ticks from boot to the start of the process. psutil's create_time moves with the wall clock.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return str(psutil.Process(pid).create_time())
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def _key(prefix: str, number: int) -> str:
    return f"{prefix}/{number:06d}"


def _numbers(backend: Backend, prefix: str) -> list[int]:
    return sorted(int(name) for name in backend.names(prefix) if _NUMBER.fullmatch(name))


def _read(backend: Backend, prefix: str, number: int) -> Holder | None:
    content = backend.read(_key(prefix, number))
    try:
        return _HOLDER.validate_json(content or b"")
    except ValidationError:
        return None  # damaged: its holder cannot be writing heartbeats


def _dump(holder: Holder) -> bytes:
    return orjson.dumps(holder)


def last(backend: Backend, prefix: str) -> Holder | None:
    """The valid lease, whether its holder is alive or not."""
    numbers = _numbers(backend, prefix)
    return _read(backend, prefix, numbers[-1]) if numbers else None


def is_live(backend: Backend, prefix: str, holder: Holder, patience: float) -> bool:
    """Whether a lease's holder is alive; for a holder on another machine, its heartbeat is observed for up to `patience` seconds."""
    if holder.released:
        return False
    if holder.host == this_host():
        return process_identity(holder.pid) == holder.process
    began = time.monotonic()
    while time.monotonic() - began < patience:
        time.sleep(min(1.0, patience / 10))
        found = _read(backend, prefix, holder.number)
        if found is not None and found.beat != holder.beat:
            return not found.released
    return False


def may_be_held(backend: Backend, prefix: str) -> bool:
    """Whether a process may hold the lease. Does not wait for a heartbeat: in doubt, yes."""
    holder = last(backend, prefix)
    if holder is None or holder.released:
        return False
    if holder.host == this_host():
        return process_identity(holder.pid) == holder.process
    beats = backend.entries(prefix).values()
    return time.time() - max((entry.modified for entry in beats), default=0.0) < FORGOTTEN_SECONDS


class Lease:
    """A lease that this process holds."""

    def __init__(self, backend: Backend, prefix: str, holder: Holder) -> None:
        self.backend, self.prefix, self.holder = backend, prefix, holder
        self.finished = False
        self.lost = False
        self._told = threading.Lock()
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="lease heartbeat")

    def seconds(self) -> float:
        """Seconds since the lease was taken."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Refuse to write if another process has taken over the lease.

        Raises:
            LeaseLost: another process has taken over.
        """
        self._look()
        if self.lost:
            raise self.lose()

    def lose(self) -> LeaseLost:
        """Mark the lease as lost; returns the error to raise."""
        self.lost = True
        self._told.acquire(blocking=False)
        return LeaseLost(f"{self.prefix}: lost the lease: another process has taken over this artifact; let it finish")

    def _look(self) -> None:
        # A successor creates the next number and removes this one. It may have finished and removed its own lease since.
        if _numbers(self.backend, self.prefix)[-1:] != [self.holder.number]:
            self.lost = True

    def beat(self) -> None:
        """Write a heartbeat, after checking whether another process has taken over."""
        self._look()
        if self.lost:
            return
        self.holder = replace(self.holder, beat=self.holder.beat + 1, seconds=self.seconds())
        self.backend.write(_key(self.prefix, self.holder.number), _dump(self.holder))

    def _beat_on(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.beat()
            except (ArtifactError, OSError):
                continue  # a full disk or a slow store: the next heartbeat may succeed, and the process is still alive
            # Only once, and not if the main thread knows already: it may have left the body, and the signal would interrupt other code.
            if self.lost and self._told.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGINT)
            if self.lost:
                return

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the heartbeat and release the lease at once; the lease of a finished artifact is removed."""
        self._stop.set()
        self._told.acquire(blocking=False)
        self._thread.join()
        try:
            if self.finished:
                self.backend.remove_all(self.prefix)
                return
            self._look()
            if not self.lost:
                released = replace(self.holder, released=True, seconds=self.seconds())
                self.backend.write(_key(self.prefix, self.holder.number), _dump(released))
        except (ArtifactError, OSError):
            return  # the process exits, or the artifact exists; both release the lease as well


def _take(backend: Backend, prefix: str, what: str, needs: tuple[str, ...]) -> Holder:
    while True:
        numbers = _numbers(backend, prefix)
        found = _read(backend, prefix, numbers[-1]) if numbers else None
        if found is not None and is_live(backend, prefix, found, STALE_SECONDS):
            raise ArtifactBusy(
                f"{what}: process {found.pid} on {found.host.partition(' ')[0]} is writing it; wait for it to end, or stop it"
            )
        process = process_identity(os.getpid())
        assert process is not None, "this process exists"
        number = (numbers[-1] if numbers else 0) + 1
        before = found.seconds_before + found.seconds if found is not None else 0.0
        mine = Holder(this_host(), os.getpid(), process, number, seconds_before=before, needs=needs)
        if backend.create(_key(prefix, number), _dump(mine)):
            for old in numbers:
                backend.remove(_key(prefix, old))
            return mine


@contextmanager
def hold(backend: Backend, prefix: str, what: str, needs: tuple[str, ...] = ()) -> Iterator[Lease]:
    """Hold the lease under `prefix` while the body runs. `needs` are the artifacts that it reads; garbage collection keeps them meanwhile.

    Raises:
        ArtifactBusy: a live process holds it.
        LeaseLost: another process has taken it over.
    """
    if isinstance(backend, LocalBackend) and backend.has(prefix):
        left = backend.root / prefix
        raise ArtifactBusy(
            f"{what}: {left} is a lease of an earlier version of MIND; stop any process of that version, then remove this file"
        )
    lease = Lease(backend, prefix, _take(backend, prefix, what, needs))
    lease.start()
    try:
        try:
            yield lease
        finally:
            lease.stop()
    except (KeyboardInterrupt, Exception) as error:
        # The heartbeat's SIGINT, or an error because a successor has moved the files: both are consequences of the lost lease.
        if lease.lost and not isinstance(error, LeaseLost):
            raise lease.lose() from error
        raise
