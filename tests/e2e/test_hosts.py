"""Training on two hosts: each runs torch's launcher for its own ranks; here both are on one machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config.run import RunConfig, load_config
from stages.core.plan import plan
from stages.core.process import store_of
from tests.support import experiment
from tests.support.runs import REPOSITORY, write_config

pytestmark = pytest.mark.e2e


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(folder: Path, model: Path, **training: Any) -> tuple[Path, RunConfig]:
    tree = experiment.tree(model)
    tree["training"] |= {"ranks": 2, "questions_per_step": 4, "questions_per_micro_batch": 2, "steps": 4, **training}
    path = write_config(folder, tree)
    run = load_config(path)
    experiment.commit(run, "synthesis", lambda draft: experiment.synthesis(run, experiment.styled, draft))
    return path, run


def _start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _losses(run: RunConfig) -> list[float]:
    store = store_of(run)
    folder = store.open("training", plan(run)["training"].fingerprint).folder
    return [loss for path in sorted(folder.glob("steps-*.parquet")) for loss in pq.read_table(path)["loss"].to_pylist()]


def test_two_hosts_have_the_same_losses_as_one(tmp_path: Path, tiny_model: Path) -> None:
    hosts = {"hosts": 2, "address": "127.0.0.1", "port": _free_port()}
    path, run = _config(tmp_path / "two", tiny_model, **hosts)
    other = _start("flows.cli", "join", str(path), "--host", "1")
    first = _start("stages.training", "--config", str(path))
    said = first.communicate(timeout=300)[0], other.communicate(timeout=60)[0]
    assert (first.returncode, other.returncode) == (0, 0), said
    assert "1 ranks of host 1 join at 127.0.0.1" in said[1]

    path, alone = _config(tmp_path / "one", tiny_model)
    one = _start("stages.training", "--config", str(path))
    assert one.communicate(timeout=300)[0] is not None and one.returncode == 0
    assert _losses(run) == pytest.approx(_losses(alone), rel=1e-5)

    done = _start("flows.cli", "join", str(tmp_path / "two" / "run.yaml"), "--host", "1")
    assert "is done" in done.communicate(timeout=60)[0]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("training", "host", "words"),
    [
        ({}, 1, "training.hosts: 1"),
        ({"hosts": 2, "address": "127.0.0.1", "port": 29500}, 2, "expected 1 to 1; host 0 runs the stage itself"),
    ],
)
def test_an_unexpected_host_is_refused(
    tmp_path: Path, tiny_model: Path, training: dict[str, Any], host: int, words: str
) -> None:
    path, _ = _config(tmp_path, tiny_model, **training)
    answer = _start("flows.cli", "join", str(path), "--host", str(host))
    assert words in answer.communicate(timeout=60)[0]
    assert answer.returncode == 2
