"""A fake teacher in a process of its own, so that it can be killed: it takes its time, and notes every prompt that it is asked.

`python -m tests.support.killable_teacher SECONDS NOTES PORT` prints its address. The text of an answer is the prompt and the seed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fake_teacher import Asked, serve
from tests.support.runs import REPOSITORY


@dataclass(frozen=True)
class KillableTeacher:
    """A running one."""

    url: str
    notes: Path
    process: subprocess.Popen[str]

    def asked(self) -> Counter[str]:
        """How often it was asked each prompt."""
        return Counter(self.notes.read_text().splitlines())

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()


@contextmanager
def killable_teacher(seconds: float, notes: Path, port: int = 0) -> Iterator[KillableTeacher]:
    """A teacher that takes `seconds` for an answer; `port` 0 is any free one."""
    notes.touch()
    command = [sys.executable, "-m", "tests.support.killable_teacher", str(seconds), str(notes), str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield KillableTeacher(process.stdout.readline().strip(), notes, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main(seconds: float, notes: Path, port: int) -> None:
    """Serve until killed."""
    with notes.open("a", buffering=1) as file:

        def note(asked: Asked) -> None:
            if asked:
                file.write(f"{asked['prompt']}\n")

        def write(prompt: str, seed: int) -> str:
            time.sleep(seconds)
            return f"{prompt} {seed}"

        with serve(write, note, port) as url:
            print(url, flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
