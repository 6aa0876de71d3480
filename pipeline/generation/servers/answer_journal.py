"""Journal of server responses that are not yet in a committed shard, so that no request is paid for twice.

The stage commits shards. Between two commits the process may be killed, or one of hundreds of requests may fail permanently. Responses
received until then are found here by prompt, seed and decoding settings. A line that was truncated by a kill, or that is no completion, is
skipped on reading.

Responses for the next shard may arrive before the current shard is committed. Entries written since the last commit are therefore kept for
one more commit. This is sufficient because shards are committed in request order and at most two are requested at once.

A batch (`batch_files.py`) may hold answers for many more shards, where these have become smaller since. It has therefore a folder beside
the journal with answers of its own, and these are dropped once all of them have been asked for: `USED` in its folder says so.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Final

import orjson

from pipeline.generation.engine import Completion, Decoding
from pipeline.prompt_rendering import Prompt

ANSWERS: Final = "answers.jsonl"
"""The journal in a batch's folder."""
USED: Final = "used"
"""File in a batch's folder: all of its answers have been asked for."""
_GONE: Final = ".gone"


def key_of(prompt: Prompt, seed: int, decoding: Decoding) -> str:
    """Identifies a request."""
    return hashlib.sha256(orjson.dumps([prompt, seed, asdict(decoding)])).hexdigest()


def _older(path: Path) -> Path:
    """File with the responses received before the last commit."""
    return path.with_suffix(".older")


def batches_folder(path: Path) -> Path:
    """Folder with the batches of a journal."""
    return path.with_suffix(".batches")


def batch_folders(path: Path) -> list[Path]:
    """Folder of each batch of a journal."""
    folder = batches_folder(path)
    return sorted(one for one in folder.iterdir() if one.suffix != _GONE) if folder.exists() else []


def remove_batch(folder: Path) -> None:
    """Removes a batch's folder, at once for every reader."""
    gone = folder.with_suffix(_GONE)
    shutil.rmtree(gone, ignore_errors=True)  # of a killed process
    folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def not_used(folder: Path) -> None:
    """Takes back that all of a batch's answers have been asked for."""
    for mark in (folder / USED, _older(folder / USED)):
        mark.unlink(missing_ok=True)


def rotate(path: Path) -> None:
    """Call after a shard is committed: drops the responses that were received before the previous commit."""
    for folder in batch_folders(path):
        if _older(folder / USED).exists():
            remove_batch(folder)
        elif (folder / USED).exists():
            (folder / USED).replace(_older(folder / USED))
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
        found: dict[str, Completion] = {}
        batches = [folder / ANSWERS for folder in batch_folders(self._path)]
        for path in (self._path, _older(self._path), *batches):  # `rotate` may move one on meanwhile
            try:
                lines = path.read_bytes().split(b"\n")
            except FileNotFoundError:
                continue
            for line in lines:
                try:
                    key, answer = orjson.loads(line)
                    completion = Completion(**answer)
                except (ValueError, TypeError):
                    continue
                if completion.usable:
                    found.setdefault(key, completion)
        return found

    def add(self, key: str, answer: Completion) -> None:
        """Appends one completion."""
        with self._lock, self._path.open("ab") as lines:
            lines.write(b"\n" + orjson.dumps([key, asdict(answer)]))
