"""A job takes every change that the configuration takes, in the flow and in a deployment's form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from flows.distill import distill
from flows.job_parameters import Job
from pipeline.config.run import load_config
from pipeline.errors import ConfigError
from pipeline.schema.yaml_and_overrides import override
from tests.support.runs import write_config


def taken(change: str) -> bool:
    """Whether a tree can be overridden so."""
    try:
        override({}, change)
    except ConfigError:
        return False
    return True


def in_the_flow(change: str) -> Any:
    return distill.validate_parameters({"job": {"config": "run.yaml", "changes": [change]}})["job"]


@given(st.text(max_size=12) | st.from_regex(r"\A[a-z_][A-Za-z .]{0,7}=[^\0]{0,8}\Z"))
def test_a_job_takes_what_the_configuration_takes(change: str) -> None:
    if taken(change) and re.match("[a-z_]", change):  # every field does
        assert in_the_flow(change).changes == (change,)
        assert Job.model_validate_json(json.dumps({"changes": [change]})).changes == (change,)
    elif "=" not in change:
        with pytest.raises(ValidationError):
            Job(changes=(change,))


CHANGES = [
    "prompts.question=|\n  Q: {{ question }}\n  A:\n",
    "prompts.question=",
    "synthesis.encoder=",
    "student.turns=null",
    "teacher.turns.template.reasoningEffort=high",
    "training.steps=1",
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_configuration_results_from_a_job(tmp_path: Path, run_tree: dict[str, Any], change: str) -> None:
    path = write_config(tmp_path, {**run_tree, "teacher": {"name": "a/b", "revision": "0" * 40}})
    try:
        expected = load_config(path, (change,))
    except ConfigError as error:
        with pytest.raises(ConfigError) as raised:
            Job(config=str(path), changes=(change,)).load()
        assert str(raised.value) == str(error)
    else:
        assert in_the_flow(change).model_copy(update={"config": str(path)}).load() == expected
    validate({"job": {"changes": [change]}}, parameter_schema(distill).model_dump(), raise_on_error=True)


SERVED = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "served_model": "large"}
FOREIGN = "http://203.0.113.7/v1"
ELSEWHERE = [
    pytest.param(f"sampling.engine.base_url={FOREIGN}", "sampling.engine.base_url", id="the field"),
    pytest.param(f"sampling.engine.base_url=[{FOREIGN}]", "sampling.engine.base_url", id="a list"),
    pytest.param(
        f"sampling.engine.base_url=['{SERVED['base_url']}', '{FOREIGN}']", "sampling.engine.base_url", id="a second address"
    ),
    pytest.param("sampling.engine.key_variable=WANDB_API_KEY", "sampling.engine.key_variable", id="the key"),
    pytest.param(f"sampling.engine={json.dumps({**SERVED, 'base_url': FOREIGN})}", "sampling.engine.base_url", id="the engine"),
    pytest.param(f"sampling={{engine: {json.dumps({**SERVED, 'base_url': FOREIGN})}}}", "sampling.engine.base_url", id="its section"),
    pytest.param(
        f"sampling={{engine: &there {json.dumps({**SERVED, 'base_url': FOREIGN})}, judge: {{model: {{served: true}}, engine: *there}}}}",
        "sampling.engine.base_url", id="an anchor",
    ),
    pytest.param(
        f"sampling.judge={{model: {{served: true}}, engine: {json.dumps({**SERVED, 'base_url': FOREIGN})}}}",
        "sampling.judge.engine.base_url", id="a new engine",
    ),
    pytest.param(f"evaluation.engine.base_url={FOREIGN}", "evaluation.engine.base_url", id="an engine that is no server yet"),
]  # fmt: skip


@pytest.fixture
def served(tmp_path: Path, run_tree: dict[str, Any]) -> Path:
    """A configuration with a teacher behind a server."""
    return write_config(tmp_path, {**run_tree, "sampling": {**run_tree.get("sampling", {}), "engine": SERVED}})


@pytest.mark.parametrize(("change", "field"), ELSEWHERE)
def test_changes_name_no_server_unless_the_machine_allows_it(
    served: Path, monkeypatch: pytest.MonkeyPatch, change: str, field: str
) -> None:
    monkeypatch.delenv("MIND_CHANGES_MAY_NAME_SERVERS", raising=False)
    job = Job(config=str(served), changes=(change,))
    with pytest.raises(ConfigError, match=f"^{re.escape(field)}: .*MIND_CHANGES_MAY_NAME_SERVERS=1"):
        job.load()
    monkeypatch.setenv("MIND_CHANGES_MAY_NAME_SERVERS", "1")
    assert job.load() == load_config(served, (change,))


def test_changes_beside_the_server_are_taken(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIND_CHANGES_MAY_NAME_SERVERS", raising=False)
    changes = ("sampling.engine.connections=3", f"sampling.engine.base_url=[{SERVED['base_url']}]", "training.steps=2")
    assert Job(config=str(served), changes=changes).load() == load_config(served, changes)
