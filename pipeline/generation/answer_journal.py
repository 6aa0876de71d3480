"""Journal of server responses that are not yet in a committed shard, so that no request is paid for twice.

The stage commits shards. Between two commits the process may be killed, or one of hundreds of requests may fail permanently. Responses
received until then are found here by prompt, seed and decoding settings. A line that was truncated by a kill, or that is no completion, is
skipped on reading.

Responses for the next shard may arrive before the current shard is committed. Entries written since the last commit are therefore kept for
one more commit. This is sufficient because shards are committed in request order and at most two are requested at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import orjson

from pipeline.generation.engine import Completion, Decoding
from pipeline.prompt_rendering import Prompt


def key_of(prompt: Prompt, seed: int, decoding: Decoding) -> str:
    """Identifies a request."""
    return hashlib.sha256(orjson.dumps([prompt, seed, asdict(decoding)])).hexdigest()


def _older(path: Path) -> Path:
    """File with the responses received before the last commit."""
    return path.with_suffix(".older")


def rotate(path: Path) -> None:
    """Call after a shard is committed: drops the responses that were received before the previous commit."""
    if path.exists():
        path.replace(_older(path))
    else:
        _older(path).unlink(missing_ok=True)


class AnswerJournal:
    """The journal file; after each commit the caller calls `rotate`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()

    def read(self) -> dict[str, Completion]:
        """Recorded completions by `key_of`."""
        found = {}
        for path in (_older(self._path), self._path):
            for line in path.read_bytes().split(b"\n") if path.exists() else ():
                try:
                    key, answer = orjson.loads(line)
                    completion = Completion(**answer)
                except (ValueError, TypeError):
                    continue
                if completion.usable:
                    found[key] = completion
        return found

    def add(self, key: str, answer: Completion) -> None:
        """Appends one completion."""
        with self._lock, self._path.open("ab") as lines:
            lines.write(b"\n" + orjson.dumps([key, asdict(answer)]))
