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
