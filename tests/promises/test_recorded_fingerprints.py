"""Fingerprints of the shipped configurations, and of some variations, equal those recorded in `recorded_fingerprints.json`.

A changed fingerprint makes everybody's artifacts of that stage and the stages after it run again. Record new values only together with a
raised VERSION or a changed configuration, and say so in CHANGELOG.md. The report is left out: its fingerprint covers the page's template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.run import load_config
from stages.core.plan import ORDER, plan
from tests.support.runs import REPOSITORY

RECORDED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("recorded_fingerprints.json").read_text())
BUILD_RECIPES = {"miniature-build.yaml", "miniature-gpu-build.yaml"}
NEEDS_BUILT_MODELS = {"miniature-gpu.yaml", "science-smollm2.yaml", "smollm2.yaml", "smollm2-gsm8k.yaml"}


@pytest.mark.parametrize("case", RECORDED.values(), ids=RECORDED)
def test_fingerprints_equal_the_recorded_ones(case: dict[str, Any]) -> None:
    run = load_config(REPOSITORY / "configs" / case["config"], tuple(case["set"]))
    found = {name: item.fingerprint for name, item in plan(run).items() if name != "report"}
    assert found == case["fingerprints"]


def test_every_shipped_run_configuration_is_recorded() -> None:
    shipped = {path.name for path in (REPOSITORY / "configs").glob("*.yaml")} - BUILD_RECIPES - NEEDS_BUILT_MODELS
    assert shipped == {case["config"] for case in RECORDED.values() if not case["set"]}
    assert all(set(case["fingerprints"]) == set(ORDER) - {"report"} for case in RECORDED.values())
