"""The server's deployments match prefect.yaml, where Prefect ignores misspelt keys silently; bad parameters are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.prefect.server import Prefect
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

DECLARED: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]


def label(declared: dict[str, Any]) -> str:
    """`flow/deployment`; a flow has the name of its function here."""
    return f"{declared['entrypoint'].partition(':')[2]}/{declared['name']}"


def on_server(prefect: Prefect, declared: dict[str, Any]) -> dict[str, Any]:
    return prefect.deployments()[label(declared)]


def test_the_server_has_the_declared_deployments_and_no_others(prefect: Prefect) -> None:
    assert sorted(prefect.deployments()) == sorted(map(label, DECLARED))


@pytest.mark.parametrize("declared", DECLARED, ids=label)
def test_a_deployment_is_as_declared(prefect: Prefect, declared: dict[str, Any]) -> None:
    found = on_server(prefect, declared)
    known = {"name", "entrypoint", "description", "tags", "work_pool", "concurrency_limit", "schedules", "parameters"}
    assert declared.keys() <= known, "this test does not look at every key"
    assert found["entrypoint"] == declared["entrypoint"]
    assert found["work_pool_name"] == declared["work_pool"]["name"]
    assert sorted(found["tags"]) == sorted(declared["tags"])
    assert found["parameters"] == declared.get("parameters", {})
    assert found["enforce_parameter_schema"] is True
    assert found["paused"] is False
    assert "description" not in declared or found["description"] == declared["description"]
    schedules = [{**item["schedule"], **item} for item in found["schedules"]]
    keys = ("cron", "timezone", "slug", "active")
    assert [[item[key] for key in keys] for item in schedules] == [
        [item[key] for key in keys] for item in declared.get("schedules", [])
    ]
    limit = found["global_concurrency_limit"] and found["global_concurrency_limit"]["limit"]
    strategy = found["concurrency_options"] and found["concurrency_options"]["collision_strategy"]
    wanted = declared.get("concurrency_limit", {})
    assert (limit, strategy) == (wanted.get("limit"), wanted.get("collision_strategy"))


def test_redistillation_is_nightly_once_it_is_activated_with_a_concurrency_limit_of_one() -> None:
    (nightly,) = (declared for declared in DECLARED if declared["name"] == "nightly")
    assert nightly["schedules"] == [{"cron": "0 2 * * *", "timezone": "Europe/Berlin", "slug": "nightly", "active": False}]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_mind_deploy_may_be_repeated(prefect: Prefect) -> None:
    def registered() -> list[dict[str, Any]]:
        pools = [{"id": pool["id"], "template": pool["base_job_template"]} for pool in prefect.post("/work_pools/filter")]
        return [
            *pools,
            *({"id": found["id"], "schedules": len(found["schedules"])} for found in prefect.deployments().values()),
        ]

    before = registered()
    assert "there already" in prefect.mind("deploy")
    assert registered() == before
    assert prefect.post("/flow_runs/count", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}) == 0


def test_heavy_stages_use_the_gpu_pool_and_light_ones_the_cpu_pool() -> None:
    pools = {label(declared): declared["work_pool"]["name"] for declared in DECLARED}
    for stage in ("references", "sampling", "synthesis", "training", "evaluation"):
        assert pools[f"{stage}/gpu"] == "mind-gpu"
    assert pools["questions/cpu"] == pools["report/cpu"] == pools["distill/spread"] == "mind-cpu"


GOOD: dict[str, Any] = {"config": "configs/miniature.yaml"}


@pytest.mark.parametrize(
    ("deployment", "parameters", "named"),
    [
        pytest.param("distill/full", {"job": {**GOOD, "confg": "x"}}, "confg", id="an unknown key"),
        pytest.param("distill/full", {"job": {**GOOD, "name": "two words"}}, "two words", id="a run name with a space"),
        pytest.param("distill/full", {"job": {**GOOD, "name": "../up"}}, "../up", id="a run name that is a path"),
        pytest.param("distill/full", {"job": {**GOOD, "changes": ["training.steps"]}}, "training.steps", id="no value"),
        pytest.param("distill/full", {"job": {**GOOD, "changes": ["--steps=3"]}}, "--steps=3", id="not a field"),
        pytest.param("distill/full", {"job": {**GOOD, "stage_runner": "cloud"}}, "cloud", id="an unknown runner"),
        pytest.param("distill/full", {"job": "configs/miniature.yaml"}, "configs/miniature.yaml", id="not a job"),
        pytest.param("redistill/nightly", {"policy": {"margin": "much"}}, "much", id="a word for a number"),
        pytest.param("redistill/nightly", {"policy": {"margin": 2}}, "2", id="a margin over 1"),
        pytest.param("redistill/nightly", {"policy": {"beta": 0.1}}, "beta", id="an unknown policy"),
        pytest.param("redistill/nightly", {"skip_if_late_hours": 0}, "0", id="no patience"),
        pytest.param("training/gpu", {"run": "a/b"}, "a/b", id="a run that is a path"),
        pytest.param("training/gpu", {}, "run", id="no run"),
    ],
)
def test_bad_parameters_are_refused_before_a_run_exists(
    prefect: Prefect, deployment: str, parameters: dict[str, Any], named: str
) -> None:
    before = prefect.post("/flow_runs/count")
    answer = prefect.ask(deployment, parameters)
    assert answer.is_client_error, answer.text
    assert named in answer.text
    assert prefect.post("/flow_runs/count") == before
