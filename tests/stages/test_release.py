"""`mind release`: the released student is complete, documents its lineage and contains no local paths."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from flows.cli.app import app
from pipeline.config.run import load_config
from pipeline.model_folders import ADAPTER
from pipeline.questions.named_benchmarks import NamedSource
from stages.release import card
from storage.catalogue import read_runs, record_run, stages_of
from storage.store import Store, open_store
from tests.support.kill_campaign import (
    CONFIG,
    STAGES,
    copy_inputs,
    overrides,
    start_stage,
    wait_for_end,
    write_stage_config,
)
from tests.support.runs import REPOSITORY

MINIATURE_STUDENT = REPOSITORY / "pipeline" / "miniature" / "models" / "student"


def release(root: Path, folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["release", "latest", str(folder), "--root", str(root), *words])


@pytest.fixture(scope="module")
def root(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run that is recorded in the catalogue."""
    copy = tmp_path_factory.mktemp("root") / "artifacts"
    shutil.copytree(undisturbed, copy)
    store = open_store(str(copy))
    record_run(store.backend, "small", {stage: store.fingerprints(stage)[0] for stage in STAGES}, {}, "done")
    return copy


@pytest.fixture(scope="module")
def released(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "student"
    answer = release(root, folder, "--licence", "apache-2.0")
    assert answer.exit_code == 0, answer.output
    return folder


def test_the_released_student_equals_the_trained_one_and_loads(released: Path, root: Path) -> None:
    store = open_store(str(root))
    trained = store.open("training", stages_of(store.backend, "latest")["training"]).path("student")
    found, expected = (load_file(folder / "model.safetensors") for folder in (released, trained))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(released), AutoTokenizer.from_pretrained(released)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generate(**tokenizer("Question: 1+1?", return_tensors="pt"), max_new_tokens=4).shape[1] > 4


@pytest.fixture(scope="module")
def adapted(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a student that was trained with LoRA, recorded in the catalogue."""
    root = tmp_path_factory.mktemp("adapted")
    changes = ("training.lora={rank: 2, alpha: 4}", "training.dev=null", "training.steps=2", "training.learning_rate=1e-2")
    run = load_config(CONFIG, (*overrides(root, "http://127.0.0.1:9/v1"), *changes))
    copy_inputs(undisturbed, root, run, "training")
    config = write_stage_config(run)
    assert wait_for_end(start_stage("training", config), config) == 0
    store = open_store(str(root))
    stages = {stage: store.fingerprints(stage)[0] for stage in ("questions", "sampling", "synthesis", "training")}
    record_run(store.backend, "small", stages, {}, "done")
    return root


def test_released_adapters_on_the_base_are_the_released_student(adapted: Path, tmp_path: Path) -> None:
    for words in (("--adapter",), ()):
        answer = release(adapted, tmp_path / f"released{len(words)}", "--unevaluated", *words)
        assert answer.exit_code == 0, answer.output
    adapter, whole = tmp_path / "released1", tmp_path / "released0"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokens = tokenizer("Question: 1+1?", return_tensors="pt")["input_ids"]
    # In float64, so that only the rounding of the merged weights is compared, and not that of two forward passes.
    base = AutoModelForCausalLM.from_pretrained(MINIATURE_STUDENT, dtype=torch.float32)
    found = PeftModel.from_pretrained(base, adapter).double()(tokens).logits
    assert (found - AutoModelForCausalLM.from_pretrained(whole).double()(tokens).logits).abs().max() < 1e-5
    assert not (adapter / "model.safetensors").exists() and not (whole / ADAPTER).exists()
    text = (adapter / "README.md").read_text()
    assert "library_name: peft" in text and "--enable-lora --max-lora-rank 2" in text
    assert "LoRA of rank 2, merged" in (whole / "README.md").read_text()


def test_adapters_of_a_student_without_any_are_refused(root: Path, tmp_path: Path) -> None:
    answer = release(root, tmp_path / "student", "--adapter")
    assert answer.exit_code == 2
    assert "--adapter: this student has no adapters" in " ".join(answer.output.split())
    assert not (tmp_path / "student").exists()


def test_the_card_has_results_data_and_lineage_and_no_local_path(released: Path, root: Path) -> None:
    card = (released / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    for heading in ("## Use", "## Results", "## Data", "## Lineage"):
        assert heading in card
    store = open_store(str(root))
    for stage in ("training", "synthesis", "sampling", "questions", "evaluation"):
        assert f"`{stage}/{stages_of(store.backend, 'latest')[stage]}`" in card
    assert "| all in distribution | 12 |" in card
    assert "miniature dial, train, 24 questions" in card
    assert str(root) not in card
    assert not re.search(r"(^|[\s`(])/[a-z]+/", card), "an absolute path"
    assert "{%" not in card


def test_an_existing_folder_is_not_overwritten(released: Path, root: Path) -> None:
    before = sorted(path.name for path in released.iterdir())
    answer = release(root, released)
    assert answer.exit_code == 2
    assert "already exists; give a new folder" in answer.stderr
    assert sorted(path.name for path in released.iterdir()) == before
    assert not list(released.parent.glob(".*"))


@pytest.mark.parametrize("licence", ["a\nb: c", "", " mit", "x" * 65, "mit]"])
def test_a_licence_that_is_no_identifier_is_refused(root: Path, tmp_path: Path, licence: str) -> None:
    answer = release(root, tmp_path / "student", "--licence", licence)
    assert answer.exit_code == 2
    assert "expected an identifier such as apache-2.0" in answer.stderr
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("evaluation", ["missing", "of another student"])
def test_a_student_that_was_not_evaluated_is_released_only_if_told_so(root: Path, tmp_path: Path, evaluation: str) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(root, copy)
    store = open_store(str(copy))
    stages = stages_of(store.backend, "latest")
    if evaluation == "missing":  # as after `mind stage training --set ...`
        record_run(store.backend, "small", {**stages, "evaluation": "0" * 16, "report": "0" * 16}, {}, "partial")
    else:
        change_manifest(
            store,
            "evaluation",
            stages["evaluation"],
            lambda found: [inputs.update(training="0" * 16) for inputs in (found["inputs"], found["identity"]["inputs"])],
        )
    answer = release(copy, tmp_path / "student")
    assert answer.exit_code == 2
    assert f"training/{stages['training']} was not evaluated" in answer.stderr
    assert "--unevaluated" in answer.stderr
    assert not (tmp_path / "student").exists()
    assert release(copy, tmp_path / "student", "--unevaluated").exit_code == 0
    assert "\nNot evaluated.\n" in (tmp_path / "student" / "README.md").read_text()


def test_a_run_that_ends_takes_its_name_back(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    copy = tmp_path / "artifacts"
    shutil.copytree(undisturbed, copy)
    words = [word for change in overrides(copy, "http://127.0.0.1:9/v1") for word in ("--set", change)]
    assert CliRunner().invoke(app, ["run", str(CONFIG), *words]).exit_code == 0
    store = open_store(str(copy))
    mine = stages_of(store.backend, "latest")
    name = str(read_runs(store.backend).runs[0]["name"])
    record_run(store.backend, name, {**mine, "training": "0" * 16}, {}, "partial")  # as `mind stage training --set ...` does
    assert CliRunner().invoke(app, ["run", str(CONFIG), *words]).exit_code == 0
    assert stages_of(store.backend, "latest") == stages_of(store.backend, name) == mine


def test_modes_of_released_files_follow_the_umask(root: Path, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert release(root, tmp_path / "student").exit_code == 0
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "student").iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "any").stat().st_mode)}


def test_the_root_may_be_set_as_in_other_commands(root: Path, tmp_path: Path) -> None:
    def released_with(*words: str) -> Result:
        return CliRunner().invoke(app, ["release", "latest", str(tmp_path / "student"), *words])

    assert released_with("--set", "training.steps=3").exit_code == 2
    assert not (tmp_path / "student").exists()
    assert released_with("--set", f"root={root}").exit_code == 0


def test_an_unknown_run_is_refused(root: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["release", "nobody", str(tmp_path / "x"), "--root", str(root)])
    assert answer.exit_code == 2
    assert "no such run or pointer" in answer.stderr


def test_a_failed_push_keeps_the_folder_and_can_be_retried(root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        answer = release(root, tmp_path / "student", "--push", "someone/student")
        assert answer.exit_code == 1
        assert "someone/student: push failed" in answer.stderr
        assert "run the same command again" in answer.stderr
        assert (tmp_path / "student" / "README.md").exists()


@pytest.mark.parametrize("change", ["another card", "another file", "a file more"])
def test_a_folder_that_differs_from_this_release_is_not_pushed(root: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "student"
    assert release(root, folder).exit_code == 0
    words = ["--licence", "mit"] if change == "another card" else []
    if change == "another file":
        (folder / "config.json").write_text("{}")
    if change == "a file more":
        (folder / "notes.txt").write_text("mine")
    answer = release(root, folder, *words, "--push", "someone/student")
    assert answer.exit_code == 2
    assert "already exists and differs from this release; give a new folder" in answer.stderr


def change_manifest(store: Store, stage: str, fingerprint: str, changed: Callable[[dict[str, Any]], None]) -> None:
    path = store.folder(stage, fingerprint) / "manifest.json"
    manifest = json.loads(path.read_text())
    changed(manifest)
    path.write_text(json.dumps(manifest))


def test_the_card_states_losses_prompt_format_and_data_licences(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "artifacts"
    shutil.copytree(root, copy)
    store = open_store(str(copy))
    stages = stages_of(store.backend, "latest")

    def asked_with_turns(manifest: dict[str, Any]) -> None:
        manifest["config"]["student"]["turns"] = {"system": "Think it over.", "template": {"enable_thinking": False}}

    def of_others(manifest: dict[str, Any]) -> None:
        hub = {"kind": "hub", "name": "allenai/ai2_arc", "revision": "0" * 40, "split": "train"}
        bbh = NamedSource.model_validate({"name": "bbh", "tasks": ["snarks"]}).model_dump(mode="json")
        manifest["config"]["questions"]["train"] += [hub, bbh]
        manifest["summary"]["trained_despite_evaluation_only"] = ["bbh"]

    def worse(manifest: dict[str, Any]) -> None:
        summary = manifest["summary"]
        summary["student_against_base"]["set:dial"] |= {"change": -0.25, "high": -0.01, "p": 0.01}
        summary["student_against_base"]["set:lift"] |= {"change": -0.125, "high": 0.1}
        for cells in summary["accuracy"].values():
            cells["set:dial without repeats"] = {**cells["set:dial"], "items": 7}

    for stage, changed in (("training", asked_with_turns), ("questions", of_others), ("evaluation", worse)):
        change_manifest(store, stage, stages[stage], changed)
    text = card(store, "small", stages, None).decode()
    assert "Below its base on: dial (25.0 points), lift (12.5 points, within chance)." in text
    assert "| dial (in distribution) without repeats | 7 |" in text
    assert "with this system turn before it:\n\n```\nThink it over.\n```" in text
    assert '`chat_template_kwargs`): `{"enable_thinking": false}`' in text
    assert "- allenai/ai2_arc@" in text and ", split train (licence: CC-BY-SA-4.0)" in text
    assert ", bbh, split test (licence: MIT)" in text
    assert "It was trained on sets that are for evaluation only: bbh." in text
