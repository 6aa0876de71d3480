"""Trials in processes of their own: one that fails or hangs costs no other, and nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from flows.trials import Trial, root_cause, row_of, trials_of, try_all
from pipeline.capacity.machine import Check
from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig
from stages.trial.outcome import Outcome
from stages.trial.training_step import REMEDY
from tests.support.trials import miniature


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def rows(run: RunConfig, minutes: float = 5) -> tuple[dict[str, Check], list[str]]:
    said: list[str] = []
    return {row.name: row for row in try_all(run, minutes, said.append)}, said


def test_a_damaged_teacher_and_a_training_without_gpu_fail_alone(tmp_path: Path, scratch: Path) -> None:
    run = miniature(tmp_path / "root", "training.packing=flex")
    assert isinstance(run.teacher, LocalModel)
    damaged = shutil.copytree(run.teacher.path, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    found, said = rows(run.model_copy(update={"teacher": run.teacher.model_copy(update={"path": damaged})}))
    assert {name: row.state for name, row in found.items()} == {
        "try teacher": "fail", "try student": "ok", "try training": "fail",
    }  # fmt: skip
    assert found["try teacher"].found.startswith("SafetensorError: ")
    assert found["try teacher"].remedy.startswith("correct teacher or sampling.engine")
    assert found["try training"].found == "training.packing: flex requires a GPU; none found"
    assert found["try training"].remedy == "set training.packing to rows or none"
    assert [line for line in said if not line.startswith("    ")] == [
        "trying the teacher in transformers, sampling.engine (at most 5 min)",
        "trying the student in transformers, synthesis.engine (at most 5 min)",
        "trying one training step on 1 rank, zero_stage 2 (at most 5 min)",
    ]
    assert any("SafetensorError" in line for line in said)
    assert not (tmp_path / "root").exists()
    assert not any(scratch.iterdir())


def test_a_trial_is_ended_at_its_time_limit(tmp_path: Path, scratch: Path) -> None:
    before = set(psutil.Process().children(recursive=True))  # workers that other tests of this process keep
    found, _ = rows(miniature(tmp_path / "root"), minutes=0.01)
    assert {row.state for row in found.values()} == {"fail"}
    for row in found.values():
        assert row.found.startswith("not done after 0.01 minutes; last line: ")
        assert "raise --minutes" in row.remedy
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not any(scratch.iterdir())


def test_imported_rationales_leave_no_teacher_to_try(tmp_path: Path) -> None:
    rationales = f"{{path: {tmp_path}/mine.jsonl, columns: {{question_id: id, perspective: kind}}}}"
    first = next(trials_of(miniature(tmp_path, "teacher={imported: true}", f"sampling.rationales={rationales}")))
    assert first == Check("try teacher", "ok", f"nothing to try: rationales are imported from {tmp_path}/mine.jsonl")


def test_the_evaluations_engine_is_tried_if_it_loads_differently(tmp_path: Path) -> None:
    names = [trial.name for trial in trials_of(miniature(tmp_path, "evaluation.engine.dtype=bfloat16"))]
    assert names == ["try teacher", "try student", "try student (evaluation)", "try training"]
    assert len(list(trials_of(miniature(tmp_path, "evaluation.engine.batch=1")))) == 3


def test_of_several_hosts_only_this_ones_ranks_are_tried(tmp_path: Path) -> None:
    hosts = ("training.hosts=2", "training.address=node1", "training.port=29500", "training.ranks=2")
    last = list(trials_of(miniature(tmp_path, *hosts)))[-1]
    assert isinstance(last, Trial)
    assert last.what == "one training step on this host's 1 of 2 ranks, zero_stage 2"
    training = miniature(tmp_path, *hosts).training
    for remedy, state in (("", "ok"), (REMEDY, "warn"), ("set training.packing to rows or none", "fail")):
        row = row_of(last, Outcome("seen", remedy), training)
        assert (row.state, row.remedy) == (state, remedy)
        assert row.found == "this host's ranks alone, of 2 hosts, so each holds more than in the run: seen"
    plain = training.model_copy(update={"zero_stage": 0})
    assert row_of(last, Outcome("seen", REMEDY), plain).state == "fail"


def test_the_root_cause_is_found_in_vllms_log() -> None:
    lines = [
        "(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] Traceback (most recent call last):",
        "(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] ValueError: Free memory on device cuda:0 is less than desired",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert root_cause(lines) == "ValueError: Free memory on device cuda:0 is less than desired"
    assert root_cause(lines[:1]) is None
