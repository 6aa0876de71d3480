"""One step of training is tried as configured, and a result that is no number fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.run import RunConfig
from stages.trial.outcome import Outcome, read_outcome
from stages.trial.training_step import config_of, on_this_host, seen
from tests.support.runs import REPOSITORY
from tests.support.trials import miniature


def tried(folder: Path, run: RunConfig) -> Outcome:
    config, file = folder / "run.yaml", folder / "outcome.json"
    config.write_text(run.model_dump_json())
    command = [sys.executable, "-m", "stages.trial.training_step", "--config", str(config), "--outcome", str(file)]
    answer = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    outcome = read_outcome(file)
    assert outcome is not None, answer.stderr
    return outcome


def test_a_step_is_taken_with_everything_that_is_configured(tmp_path: Path) -> None:
    lora = ("training.lora={rank: 4}", "training.zero_stage=3", "training.offload=all")
    run = miniature(tmp_path / "root", *lora, "training.gradient_checkpointing=true", "training.answer_weight=0.1")
    outcome = tried(tmp_path, run)
    assert outcome.remedy == "", outcome
    for words in ("longest row 128 tokens", "loss ", "gradient norm ", "GiB of main memory per rank", "attention mind_rows"):
        assert words in outcome.found
    assert not (tmp_path / "root").exists()


def test_the_student_writes_and_the_teacher_scores_in_the_tried_step(tmp_path: Path) -> None:
    policy = "training.on_policy={share: 0.5, every: 100, after: 0.9, max_tokens: 8, engine: {kind: transformers}}"
    outcome = tried(tmp_path, miniature(tmp_path / "root", policy))
    assert outcome.remedy == "", outcome
    said = re.search(r"on own texts (\d+\.\d+)", outcome.found)
    assert said is not None and float(said[1]) > 0
    (tmp_path / "outcome.json").unlink()
    missing = miniature(tmp_path / "root", policy, f"teacher.path={tmp_path}/nothing")
    assert "no such model folder" in tried(tmp_path, missing).found


def test_an_error_of_a_rank_is_the_outcome_with_its_remedy(tmp_path: Path) -> None:
    outcome = tried(tmp_path, miniature(tmp_path / "root", "training.ranks=2", "training.lora={targets: [nothing]}"))
    assert outcome.found == "training.lora.targets: nothing: the student has no such layers"
    assert outcome.remedy.startswith("use some of ")


@pytest.mark.parametrize(("loss", "norm", "good"), [(1.0, 2.0, True), (1.0, None, True), (float("nan"), 2.0, False),
                                                    (1.0, float("inf"), False)])  # fmt: skip
def test_a_result_that_is_no_number_fails(loss: float, norm: float | None, good: bool) -> None:
    outcome = seen({"loss": loss, "gradient_norm": norm}, 1.0, 512, "1 GiB", "sdpa")
    assert (outcome.remedy == "") is good
    assert ("not finite" in outcome.found) is not good


def test_several_hosts_are_tried_with_the_ranks_of_one(tmp_path: Path) -> None:
    run = miniature(tmp_path, "training.hosts=2", "training.address=node1", "training.port=29500", "training.ranks=2")
    training = on_this_host(config_of(run)).training
    assert (training.ranks, training.hosts, training.address, training.questions_per_step) == (1, 1, None, 5)
