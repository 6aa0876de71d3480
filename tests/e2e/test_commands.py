"""Inspection commands on a finished run: their text output and their JSON output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.core.plan import ORDER
from storage.backend import LocalBackend
from storage.store import Store
from tests.support.end_to_end import Run, mind, overrides

pytestmark = pytest.mark.e2e


def said(*arguments: str, code: int = 0) -> str:
    answer = mind(*arguments)
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout if code == 0 else answer.stderr


def told(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """The finished run in a root that a test may change."""
    root = tmp_path / "root"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns(".prefect"))
    return Run(root, finished.output)


def test_plan_shows_the_changed_field_and_the_stages_to_rerun(finished: Run) -> None:
    arguments = ("plan", "configs/miniature.yaml", *overrides(finished.root), "--set", "training.learning_rate=1e-3")
    plan = {item["stage"]: item for item in told(*arguments)}
    states = {stage: item["state"] for stage, item in plan.items()}
    assert states == {stage: "run" if stage in ("training", "evaluation", "report") else "cached" for stage in ORDER}
    assert plan["training"]["changes"] == [{"field": "config.training.learning_rate", "old": 0.0002, "new": 0.001}]
    assert [change["field"] for change in plan["evaluation"]["changes"]] == ["inputs.training"]
    manifest = finished.manifest("training")
    expected = plan["training"]["expected"]
    assert expected["tokens"] == manifest["summary"]["tokens_trained"]
    assert expected["seconds"] == pytest.approx(manifest["timing"]["seconds"], abs=0.1)
    table = said(*arguments)
    for words in ("config.training.learning_rate", "0.0002", "0.001", f"training/{manifest['fingerprint']}"):
        assert words in table


def test_plan_scales_its_estimate_with_the_work(finished: Run) -> None:
    longer = ("plan", "configs/miniature.yaml", *overrides(finished.root, "training.steps=48"))
    (training,) = (item for item in told(*longer) if item["stage"] == "training")
    assert training["expected"]["tokens"] == 2 * finished.manifest("training")["summary"]["tokens_trained"]


def test_plan_shows_the_progress_of_an_unfinished_stage(copied: Run) -> None:
    sampling = copied.artifact("sampling")
    partial = sampling.rename(sampling.with_suffix(".partial"))
    (partial / "manifest.json").unlink()
    shutil.rmtree(copied.root / "pointers")
    (item,) = (
        item
        for item in told("plan", "configs/miniature.yaml", *overrides(copied.root))
        if item["stage"] == "sampling"
    )  # fmt: skip
    assert item["state"] == "resume"
    assert f"{len(list(partial.glob('samples-*')))} shards of samples" in item["detail"]


def test_status_lists_the_run_with_its_student_and_pointer(finished: Run) -> None:
    table = said("status", "--root", str(finished.root))
    assert f"training/{finished.artifact('training').name}" in table
    assert "latest" in table
    (run,) = told("status", "--root", str(finished.root))["runs"]
    assert (run["name"], run["status"], len(run["stages"])) == ("miniature", "done", len(ORDER))


def test_a_run_without_a_live_process_is_shown_as_interrupted(copied: Run) -> None:
    path = copied.root / "runs" / "miniature.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    shutil.rmtree(copied.artifact("evaluation"))
    assert "interrupted before evaluation was done" in said("status", "--root", str(copied.root))


def test_lineage_lists_ancestors_question_sources_and_models(finished: Run) -> None:
    tree = said("lineage", "miniature", "--root", str(finished.root))
    for stage in ("training", "synthesis", "sampling", "questions"):
        assert f"{stage}/{finished.artifact(stage).name}" in tree
    assert "train: miniature dial, train, 48 questions, seed 0" in tree
    assert "miniature/models/teacher" in tree
    chain = told("lineage", "miniature:report", "--root", str(finished.root))
    assert len(chain) == len(ORDER)


def test_show_prints_an_artifact_and_diff_compares_two(finished: Run) -> None:
    student = finished.artifact("training").name
    assert f"training/{student}" in said("show", f"training/{student[:6]}", "--root", str(finished.root))
    assert told("show", "miniature:sampling", "--root", str(finished.root)) == finished.manifest("sampling")
    assert "the same artifact" in said("diff", "miniature", f"training/{student}", "--root", str(finished.root))
    assert "belong to different stages" in said("diff", "miniature", "miniature:report", "--root", str(finished.root), code=2)
    assert "no such run or pointer" in said("show", "nobody", "--root", str(finished.root), code=2)


def test_verify_passes_an_intact_run_and_names_a_damaged_file(copied: Run) -> None:
    assert said("verify", "--root", str(copied.root)).count(": whole") == len(ORDER)
    shard = next(copied.artifact("sampling").glob("samples-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    errors = said("verify", "miniature:sampling", "--root", str(copied.root), code=1)
    assert f"{shard.name}: content differs from the manifest" in errors


def test_gc_keeps_a_run_until_it_is_forgotten(copied: Run) -> None:
    root = ("--root", str(copied.root))
    before = told("gc", "--dry-run", *root)
    assert not [item for item in before["garbage"] if "left over" not in item["why"]]
    said("promote", "miniature", *root)
    said("forget", "miniature", *root)
    said("gc", *root)
    assert Store(copied.root).exists("training", copied.artifact("training").name), "promoted keeps it"
    LocalBackend(copied.root).remove("pointers/promoted.json")
    removed = told("gc", *root)
    assert removed["bytes"] > 0
    assert not list(copied.root.glob("*/*/manifest.json"))


def test_export_and_import_move_a_student_with_its_ancestors(finished: Run, tmp_path: Path) -> None:
    file, there = tmp_path / "student.tar", str(tmp_path / "there")
    assert "4 artifacts" in said("export", "miniature", str(file), "--root", str(finished.root))
    assert said("import", str(file), "--root", there).count("added") == 4
    assert said("import", str(file), "--root", there).count("already exists") == 4
    assert said("verify", "--root", there).count(": whole") == 4
    assert "imported" in said("status", "--root", there)
    assert told("gc", "--dry-run", "--root", there)["garbage"] == []


def test_rollback_without_an_earlier_version_is_refused(finished: Run) -> None:
    assert "no earlier version" in said("rollback", "--root", str(finished.root), code=2)
