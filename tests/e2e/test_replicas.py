"""Two copies of a model answer like one in this process, are reached by nobody else, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.errors import ConfigError, EngineError
from pipeline.generation.engine import TOO_LONG, Completion, Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_tokenizer
from pipeline.questions.procedural import ask, distinct
from tests.support.runs import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

STUDENT = LocalModel(path=REPOSITORY / "pipeline" / "miniature" / "models" / "student", chat=False)
PROMPTS = [f"Question: {ask(problem)}\nSolution:\n" for problem in distinct("dial", "dev", 12, seed=0)]
LONG = "7, " * 2000
GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=96, likelihood=True)
SAMPLED = Decoding(temperature=0.7, top_p=1.0, max_tokens=96, likelihood=True)
DECODINGS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "the likeliest tokens": replace(SAMPLED, temperature=1.5, top_p=0.9, top_k=5, min_p=0.05),
    "penalised": replace(GREEDY, repetition_penalty=1.3, presence_penalty=1.5),
    "stopped": replace(GREEDY, stop=(" 3)",)),
    "no likelihood": replace(SAMPLED, likelihood=False, reasoning_effort="low"),
}


def engine(**more: object) -> EngineConfig:
    return EngineConfig.model_validate({"kind": "vllm", "dtype": "float32", "max_context": 1024, "kv_cache_gib": 0.3, **more})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """The student with a special token in almost every answer, which marks its thoughts; decoding leaves out other special tokens."""
    folder = tmp_path_factory.mktemp("student")
    tokenizer = load_tokenizer(STUDENT)
    tokenizer.add_special_tokens({"additional_special_tokens": ["."]})
    tokenizer.save_pretrained(folder)
    for file in STUDENT.path.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    return LocalModel(path=folder, chat=False, thought_marks=(".", "="))


def answers(opened: Any) -> dict[str, list[Completion]]:
    return {name: opened.generate(PROMPTS, list(range(12)), how) for name, how in DECODINGS.items()}


@pytest.fixture(scope="module")
def alone(model: LocalModel) -> dict[str, list[Completion]]:
    with open_engine(engine(), model) as opened:
        return answers(opened)


class Seen(NamedTuple):
    """What two copies answered, their family of processes, and what was said after one of them was killed."""

    answers: dict[str, list[Completion]]
    skipped: list[Completion]
    listening: list[str]
    commands: list[str]
    without_key: int
    cores: int
    after_death: str
    left: list[psutil.Process]


@pytest.fixture(scope="module")
def copies(model: LocalModel) -> Seen:
    own = psutil.Process()
    before = set(own.children(recursive=True))
    with pytest.raises(EngineError) as raised, open_engine(engine(replicas=2), model) as opened:
        found = answers(opened)
        skipped = opened.generate([PROMPTS[0], LONG, PROMPTS[1]], [0] * 3, replace(GREEDY, skip_long=True))
        family = [one for one in own.children(recursive=True) if one not in before]
        commands = [" ".join(one.cmdline()) for one in family]
        listening = [
            str(place.laddr.ip) for one in family for place in one.net_connections("inet") if place.status == psutil.CONN_LISTEN
        ]
        port = next(said[1] for line in commands if (said := re.search(r"--port (\d+)", line)))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as reply:
                without_key = reply.status
        except urllib.error.HTTPError as error:
            without_key = error.code
        cores = [one for one, line in zip(family, commands, strict=True) if "EngineCore" in line]
        cores[0].kill()
        while True:  # the other one may still answer
            opened.generate(PROMPTS, list(range(12)), SAMPLED)
    _, left = psutil.wait_procs(family, timeout=30)
    return Seen(found, skipped, listening, commands, without_key, len(cores), str(raised.value), left)


@pytest.mark.parametrize("name", DECODINGS)
def test_two_copies_give_the_rows_of_one(alone: dict[str, list[Completion]], copies: Seen, name: str) -> None:
    for one, other in zip(alone[name], copies.answers[name], strict=True):
        assert replace(one, cumulative_logprob=None) == replace(other, cumulative_logprob=None)
        assert other.cumulative_logprob == pytest.approx(one.cumulative_logprob, abs=1e-3)


def test_marks_of_thoughts_are_kept(copies: Seen) -> None:
    assert any("<think>" in said.text for said in copies.answers["greedy"])


def test_overlong_prompts_are_skipped(copies: Seen) -> None:
    assert copies.skipped[1] == TOO_LONG
    assert [said.text for said in copies.skipped[::2]] == [said.text for said in copies.answers["greedy"][:2]]


def test_the_copies_are_two_and_reached_with_their_key_on_loopback_only(copies: Seen) -> None:
    assert copies.cores == 2
    assert copies.without_key == 401
    assert set(copies.listening) <= {"127.0.0.1", "::1"}
    assert not [line for line in copies.commands if re.search("[0-9a-f]{48}", line)]


def test_the_death_of_a_copy_ends_the_engine_in_one_line_and_leaves_nothing(copies: Seen) -> None:
    assert re.match(
        r"vLLM's server \d of 2 on \S+ ended \(exit code \d+\); see the stage's log; committed shards are kept: run again$",
        copies.after_death,
    )
    assert copies.left == []


def test_copies_end_with_a_killed_process(tmp_path: Path) -> None:
    script = (
        "from tests.e2e.test_replicas import STUDENT, engine\n"
        "from pipeline.generation.open_engine import open_engine\n"
        "with open_engine(engine(replicas=2), STUDENT): pass"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
    until = time.monotonic() + 240
    family: list[psutil.Process] = []
    while sum("EngineCore" in " ".join(one.cmdline()) for one in family) < 2:
        assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
        assert time.monotonic() < until
        time.sleep(0.2)
        family = [one for one in psutil.Process(process.pid).children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []


def test_more_copies_than_the_machine_has_cores_are_refused_before_a_model_loads() -> None:
    with (
        pytest.raises(ConfigError, match=r"engine\.replicas 4096, but there are no GPU and \d+ cores; lower engine\.replicas"),
        open_engine(engine(replicas=4096), LocalModel(path=Path("nowhere"), chat=False)),
    ):
        pass
