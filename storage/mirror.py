"""Mirrors a draft between its local folder and a remote root, so that any machine can resume it.

The remote root is authoritative: resuming a draft makes the local folder equal to the remote one; files that exist only locally were never
committed. A new remote file never overwrites another one, because a holder that was considered dead may have a request in flight for
minutes. A record lists which local files are known to equal the remote ones, one line per file with size and modification time. It is
trusted only by the holder of the very next lease, because then nobody else has written in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from storage.backend import ObjectStore
from storage.errors import LeaseLost

DERIVED: Final = "derived"
"""A subfolder of the scratch folder for files that can be recomputed from the inputs; it is not uploaded."""


@dataclass(frozen=True)
class Mirror:
    """A draft's folders: `<name>.partial` locally and `<name>/` remotely, and `<name>.scratch` on both sides."""

    remote: ObjectStore
    root: Path
    name: str

    @property
    def _record(self) -> Path:
        return self.root / f"{self.name}.synced"

    @property
    def _folders(self) -> dict[str, Path]:
        return {self.name: self.root / f"{self.name}.partial", f"{self.name}.scratch": self.root / f"{self.name}.scratch"}

    def take_up(self, lease_number: int) -> list[str]:
        """Make the local folders equal to the remote ones; returns the draft's files that were downloaded."""
        fetched = []
        known = self._known(lease_number - 1)
        self._record.write_bytes(orjson.dumps(lease_number) + b"\n")
        for prefix, folder in self._folders.items():
            there, here = self.remote.tree(prefix), _files(folder)
            for name in here.keys() - there.keys():
                (folder / name).unlink()
            for name in there:
                key = f"{prefix}/{name}"
                if name not in here or known.get(key) != here[name] or here[name][0] != there[name].bytes:
                    self.remote.download(key, folder / name)
                    fetched += [name] if prefix == self.name else []
                self._remember(key, folder / name)
        return fetched

    def _known(self, lease_number: int) -> dict[str, list[int]]:
        if not self._record.exists():
            return {}
        number, *lines = self._record.read_bytes().splitlines() or [b""]
        if number != orjson.dumps(lease_number):
            return {}
        known: dict[str, list[int]] = {}
        for line in lines:
            try:
                key, *state = orjson.loads(line)
            except ValueError:  # truncated by a kill; its file is downloaded again
                continue
            known[key] = state
        return known

    def _remember(self, key: str, path: Path) -> None:
        with self._record.open("ab") as record:
            record.write(orjson.dumps([key, *_state(path)]) + b"\n")

    def send(self, name: str, new: bool = False) -> None:
        """Upload one file of the draft; a `new` one never overwrites another."""
        self._send(f"{self.name}/{name}", self._folders[self.name] / name, new)

    def _send(self, key: str, path: Path, new: bool) -> None:
        if not new:
            self.remote.upload(path, key)
        elif not self.remote.upload_new(path, key):
            raise LeaseLost(f"{key}: another process has written this file; run again to resume from it")
        self._remember(key, path)

    def send_changes(self, last: str = "") -> None:
        """Make the remote folders equal to the local ones, if the lease is still the one under which the draft was resumed.

        The file named `last` is uploaded after all others, and files that no longer exist locally are removed only then, so that a
        concurrent reader finds every file that `last` names.
        """
        for prefix, folder in reversed(self._folders.items()):
            here, there = _files(folder), self.remote.tree(prefix)
            number, known = self._known_now()
            if self.remote.names(f"{self.name}.lease")[-1:] != [f"{number:06d}"]:
                raise LeaseLost(f"{self.name}: lost the lease: another process has taken over this artifact; let it finish")
            for name in sorted(here, key=lambda name: (name == last, name)):
                key = f"{prefix}/{name}"
                if name not in there or known.get(key) != here[name]:
                    self._send(key, folder / name, new=name not in there)
            for name in there.keys() - here.keys():
                self.remote.remove(f"{prefix}/{name}")

    def _known_now(self) -> tuple[int, dict[str, list[int]]]:
        number = int(self._record.read_bytes().splitlines()[0])
        return number, self._known(number)

    def remove(self, name: str) -> None:
        """Remove one file of the draft from the remote root."""
        self.remote.remove(f"{self.name}/{name}")

    def close(self) -> None:
        """Remove the scratch folder and the record, once the artifact is complete."""
        self.remote.remove_all(f"{self.name}.scratch")
        self._record.unlink(missing_ok=True)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and modification time of every file except temporary ones and, in a scratch folder, derived ones."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    names = ((path.relative_to(folder), path) for path in paths)
    derived = DERIVED if folder.suffix == ".scratch" else None
    return {name.as_posix(): _state(path) for name, path in names if name.parts[0] != derived}
