"""What was submitted to a server's batch interface, on disk beside the answer journal: a folder for each batch.

    arrived-teacher.batches/<digest>/requests.jsonl   its input file, until its answers are there
    arrived-teacher.batches/<digest>/record.json      where it is: uploaded files, the server's name for it, whether it has ended
    arrived-teacher.batches/<digest>/answers.jsonl    its answers, as the journal has them

Each step is on disk before the next one is taken, so a killed process goes on from there. `digest` is of the input file and of the number
of earlier batches with the same one, so that a batch can be told from its repetition.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

from pipeline.errors import EngineRefused
from pipeline.generation.servers.answer_journal import (
    ANSWERS,
    USED,
    AnswerJournal,
    batch_folders,
    batches_folder,
    not_used,
    remove_batch,
)
from pipeline.generation.servers.spending import NOTHING, Usage

MOST_REQUESTS: Final = 50_000
"""Most requests of a batch, as OpenAI has it."""
MOST_BYTES: Final = 200_000_000
"""Most bytes of its input file, as OpenAI has it."""
_RECORD: Final = "record.json"
_REQUESTS: Final = "requests.jsonl"


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Makes a file with all of the pieces, or none."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass
class Batch:
    """One batch. `keys`: of all its requests, and after its end of the answers that nobody has asked for in this process.

    `names`: of the parameters that its requests have. `failures`: why requests have no answer, by key. `found_ended`: another process
    submitted it, and its end was found when it was looked for. `most`: what its requests can use together. `stated` and `lost`: what they
    have used, as far as results say, and at most where they do not. `counted`: both are in the ledger.
    """

    folder: Path
    url: str
    keys: set[str]
    names: tuple[str, ...] = ()
    files: list[str] = field(default_factory=list)
    id: str | None = None
    ended: bool = False
    found_ended: bool = False
    used: bool = False
    most: Usage = NOTHING
    stated: Usage = NOTHING
    lost: Usage = NOTHING
    counted: bool = False
    failures: dict[str, Exception] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    @property
    def digest(self) -> str:
        """Names the batch here, and in its metadata at the server."""
        return self.folder.name

    @property
    def input(self) -> Path:
        """The file to upload."""
        return self.folder / _REQUESTS

    @property
    def answers(self) -> AnswerJournal:
        """Its own journal."""
        return AnswerJournal(self.folder / ANSWERS)

    def save(self) -> None:
        """Writes down where the batch is."""
        said = {
            "url": self.url, "files": self.files, "id": self.id, "ended": self.ended,
            "most": self.most, "stated": self.stated, "lost": self.lost, "counted": self.counted,
        }  # fmt: skip
        _write(self.folder / _RECORD, [json.dumps(said).encode()])

    def end(self, keep_input: bool) -> None:
        """Its answers are on disk; those without one may be asked for by another batch."""
        if (kept := self.folder / ANSWERS).exists():
            with kept.open("rb+") as file:
                os.fsync(file.fileno())
        self.keys = set(self.answers.read())
        self.ended = True
        self.save()
        if not keep_input:
            self.input.unlink(missing_ok=True)

    def asked_for(self, keys: set[str]) -> None:
        """Notes that a caller has these answers; with the last one, the batch goes at the second commit from here."""
        with self.lock:
            self.keys -= keys
            if not self.keys and not self.used:
                self.used = True
                (self.folder / USED).touch()

    def drop(self) -> None:
        """Removes everything about it."""
        remove_batch(self.folder)


def digest_of(lines: Iterable[bytes], number: int) -> str:
    """Names a batch by its content; `number` counts earlier ones with the same content."""
    found = hashlib.sha256(str(number).encode())
    for line in lines:
        found.update(b"\n" + line)
    return found.hexdigest()


def write_batch(arrived: Path, digest: str, url: str, lines: list[bytes], most: Usage) -> Batch:
    """A batch that is on disk, and nowhere else."""
    folder = batches_folder(arrived) / digest
    folder.mkdir(parents=True, exist_ok=True)
    batch = Batch(folder, url, set(), most=most)
    _write(batch.input, (line + b"\n" for line in lines))
    batch.save()
    return _with_requests(batch)


def _with_requests(batch: Batch) -> Batch:
    with batch.input.open("rb") as lines:
        for line in lines:
            asked = json.loads(line)
            batch.keys.add(asked["custom_id"])
            batch.names = batch.names or tuple(asked["body"])
    return batch


def read_batches(arrived: Path) -> Iterator[Batch]:
    """The batches of earlier processes; one that was killed before it had written everything down is removed.

    Which answers have been asked for is counted anew: the caller's shards may have another size now.
    """
    for folder in batch_folders(arrived):
        try:
            said: dict[str, Any] = json.loads((folder / _RECORD).read_bytes())
        except FileNotFoundError:
            remove_batch(folder)
            continue
        most, stated, lost = (Usage._make(said[name]) for name in ("most", "stated", "lost"))
        marks = {name: said[name] for name in ("files", "id", "ended", "counted")}
        batch = Batch(folder, said["url"], set(), most=most, stated=stated, lost=lost, **marks)
        not_used(folder)
        if batch.ended:
            batch.keys = set(batch.answers.read())
        yield batch if batch.ended else _with_requests(batch)


def check_none_under_way(arrived: Path, url: str | None) -> None:
    """Check that no batch of a journal may still be paid for without being fetched; `url`: the server that batches are fetched from.

    Raises:
        EngineRefused: there is one.
    """
    for batch in read_batches(arrived):
        if not batch.ended and (batch.files or batch.id) and batch.url != url:
            remedy = f"engine.base_url to {batch.url}" if url else f"engine.batches to true, with engine.base_url {batch.url},"
            raise EngineRefused(
                f"{batch.url}: a batch with {len(batch.keys):,} requests was submitted, and is not fetched: set {remedy} to fetch it, or "
                f"remove {batch.folder} to ask again and pay again"
            )


def packed(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Requests, split into as many batches as the limits of servers need."""
    pack: list[bytes] = []
    size = 0
    for line in lines:
        if pack and (len(pack) == MOST_REQUESTS or size + len(line) + 1 > MOST_BYTES):
            yield pack
            pack, size = [], 0
        pack.append(line)
        size += len(line) + 1
    if pack:
        yield pack
