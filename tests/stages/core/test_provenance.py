"""Model origins in a manifest: the folder of each model, or the server that answered for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.run import RunConfig
from stages.core.provenance import Origin, origins
from stages.references import stage as references
from stages.sampling import stage as sampling

SERVER = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "served_model": "large"}
OTHER = {"kind": "openai", "base_url": "http://127.0.0.1:8001/v1", "served_model": "strict", "max_context": 8192}


def found(stage: Any, tree: dict[str, Any]) -> list[Origin]:
    config = stage.config_of(RunConfig.model_validate(tree))
    manifest = {"stage": stage.NAME, "config": config.model_dump(mode="json"), "identity": {"outside": stage.outside(config)}}
    return list(origins(manifest))


@pytest.fixture
def served(run_tree: dict[str, Any]) -> dict[str, Any]:
    return run_tree | {"teacher": {"served": True}, "sampling": {"engine": SERVER}}


def test_a_served_teacher_is_named_by_its_server(served: dict[str, Any]) -> None:
    large = Origin("teacher", "large at http://127.0.0.1:8000/v1", None)
    assert found(sampling, served) == [large]
    several = {**SERVER, "base_url": ["http://a:1/v1", "http://b:1/v1"]}
    assert found(sampling, served | {"sampling": {"engine": several}}) == [
        Origin("teacher", "large at http://a:1/v1, http://b:1/v1", None)
    ]
    teacher, base = found(references, served)
    assert teacher == large
    assert (base.role, base.location) == ("base", served["student"]["path"])


def test_a_judge_is_named_by_its_server_or_its_folder(served: dict[str, Any], tiny_model: Path) -> None:
    judge = {"model": {"served": True}, "engine": OTHER}
    _, origin = found(sampling, served | {"sampling": {"engine": SERVER, "judge": judge}})
    assert origin == Origin("judge", "strict at http://127.0.0.1:8001/v1", None)
    here = {"model": {"path": str(tiny_model)}, "engine": {"max_context": 8192}}
    _, origin = found(sampling, served | {"sampling": {"engine": SERVER, "judge": here}})
    assert (origin.role, origin.location) == ("judge", str(tiny_model))
    assert origin.digest is not None
