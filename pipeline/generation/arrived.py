"""Answers that have arrived from a server and are in no shard yet: a file with a line for each, so that none is paid for twice.

Whoever asks commits shards; between two commits a process may be killed, or one of hundreds of requests fail for good. What arrived
until then is found here by prompt, seed and decoding. A line that a kill has torn is not read.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import orjson

from pipeline.generation import Completion, Decoding


def key_of(prompt: str, seed: int, decoding: Decoding) -> str:
    """What tells one request from another."""
    return hashlib.sha256(orjson.dumps([prompt, seed, asdict(decoding)])).hexdigest()


class Arrived:
    """The file; whoever has committed what is in it removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def read(self) -> dict[str, Completion]:
        """Answers by `key_of`."""
        found = {}
        for line in self._path.read_bytes().split(b"\n") if self._path.exists() else ():
            try:
                key, answer = orjson.loads(line)
            except ValueError:
                continue
            found[key] = Completion(**answer)
        return found

    def add(self, key: str, answer: Completion) -> None:
        """Keep one more."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as lines:
                lines.write(b"\n" + orjson.dumps([key, asdict(answer)]))
