"""SIGKILL at any moment of a batch pays for nothing twice and gives the same texts."""

from __future__ import annotations

import random
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.support.batch_client import PROMPTS, process, run
from tests.support.fake_batches import Provider, provide

EXPECTED = {prompt: f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)}
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["tests.support.batch_client", "pipeline.generation.servers.openai_batches"])


def start(url: str, folder: Path, per_shard: int, kill: tuple[int, str] | None = None) -> int:
    """The exit code of a process of its own."""
    child = SERVER.Process(target=process, args=(url, folder, per_shard, kill), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def finished(provider: Provider, url: str, folder: Path, per_shard: int) -> None:
    """Checks the end of a campaign."""
    assert run(url, folder, per_shard) == EXPECTED
    assert set(provider.paid.values()) == {1}
    assert len(provider.paid) == len(PROMPTS)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_each_commit_point_pays_nothing_twice(when: str, tmp_path: Path) -> None:
    for number in range(1, 99):
        provider = Provider(steps=())
        folder = tmp_path / str(number)
        folder.mkdir()
        with provide(provider) as url:
            code = start(url, folder, len(PROMPTS), (number, when))
            finished(provider, url, folder, len(PROMPTS))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 12


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no metadata"])
def test_a_kill_around_each_request_pays_nothing_twice(metadata: bool, tmp_path: Path) -> None:
    """Also between the creation of a batch and the reply, where only the server knows of it."""
    done: set[tuple[str, str]] = set()
    child = None

    def disturb(request: str, when: str) -> None:
        if (request, when) not in done and child is not None:
            done.add((request, when))
            child.kill()

    provider = Provider(steps=("validating",), keeps_metadata=metadata, disturb=disturb)
    with provide(provider) as url:
        for _ in range(40):
            child = SERVER.Process(target=process, args=(url, tmp_path, 5, None), daemon=True)
            child.start()
            child.join(60)
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
        child = None
        finished(provider, url, tmp_path, 5)
    kinds = ("GET /v1/models", "GET /v1/batches", "POST /v1/files", "POST /v1/batches", "GET /v1/batches/*", "GET /v1/files/*")
    assert done == {(kind, when) for kind in kinds for when in ("before", "after")}


def test_kills_at_random_and_shards_of_other_sizes_pay_nothing_twice(tmp_path: Path) -> None:
    for seed in range(2):
        chance, provider, folder = random.Random(seed), Provider(steps=("validating",)), tmp_path / str(seed)
        folder.mkdir()
        with provide(provider) as url:
            for _ in range(8):
                start(url, folder, chance.randint(1, 6), (chance.randint(1, 40), chance.choice(["before", "after"])))
            finished(provider, url, folder, 3)
