"""Benchmark of several servers: `python -m tests.bench.servers`.

Fake servers that take a quarter of a second for an answer, four requests in flight at each: requests per second with one and with two, and
what is asked twice if one of two is killed (`kill -9`) in the middle.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.config.engines import EngineConfig
from pipeline.config.models import ServedModel
from pipeline.generation.engine import Completion, Decoding
from pipeline.generation.open_engine import open_engine
from tests.support.killable_teacher import KillableTeacher, killable_teacher

SECONDS: Final = 0.25
CONNECTIONS: Final = 4
PROMPTS: Final = [f"prompt {number}" for number in range(96)]


class Asked(NamedTuple):
    """What came of one pass: the texts in order, requests per second, and how often each prompt was asked at each server."""

    texts: list[str]
    rate: float
    asked: list[Counter[str]]

    @property
    def twice(self) -> list[str]:
        """Prompts that were asked more than once."""
        total: Counter[str] = sum(self.asked, Counter())
        return [prompt for prompt, count in total.items() if count > 1]


def ask(folder: Path, servers: int, kill_after: int | None = None) -> Asked:
    """Ask all prompts of `servers` new servers, of which the first is killed after so many answers."""
    with ExitStack() as stack:
        teachers = [stack.enter_context(killable_teacher(SECONDS, folder / str(number))) for number in range(servers)]
        texts, seconds = _asked(teachers, kill_after)
        return Asked(texts, len(PROMPTS) / seconds, [teacher.asked() for teacher in teachers])


def _asked(teachers: Sequence[KillableTeacher], kill_after: int | None) -> tuple[list[str], float]:
    arrived: list[Completion] = []

    def told(said: Completion) -> None:
        arrived.append(said)
        if len(arrived) == kill_after:
            teachers[0].kill()

    urls = tuple(teacher.url for teacher in teachers)
    config = EngineConfig(kind="openai", base_url=urls, served_model="simulated", connections=CONNECTIONS, retry_seconds=60)
    with open_engine(config, ServedModel(served=True, chat=False), told=told) as engine:
        began = time.monotonic()
        found = engine.generate(PROMPTS, list(range(len(PROMPTS))), Decoding(0.7, 1.0, 16))
        return [said.text for said in found], time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-servers-") as folder:
        found = {}
        for name, servers, kill_after in (("one", 1, None), ("two", 2, None), ("killed", 2, len(PROMPTS) // 2)):
            (place := Path(folder) / name).mkdir()
            found[name] = ask(place, servers, kill_after)
    one, two, killed = found["one"], found["two"], found["killed"]
    print(f"{len(PROMPTS)} requests of {SECONDS} s, {CONNECTIONS} in flight at each server")
    print(f"one server   {one.rate:5.1f} requests/s")
    print(
        f"two servers  {two.rate:5.1f} requests/s, {two.rate / one.rate:.2f} times; the same answers: {two.texts == one.texts}"
    )
    print(
        f"one of two killed after {len(PROMPTS) // 2} answers: the same answers: {killed.texts == one.texts}; asked twice: "
        f"{len(killed.twice)}, of at most {CONNECTIONS} in flight there; {killed.rate:.1f} requests/s"
    )


if __name__ == "__main__":
    main()
