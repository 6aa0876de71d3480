from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.capacity.recipe import recipe_checks
from pipeline.config.run import RunConfig
from tests.support.runs import tree_of


def _offered(tmp_path: Path, model: Path, generation: dict[str, Any] | None, **sampling: Any) -> list[tuple[str, str | None]]:
    teacher = tmp_path / "teacher"
    shutil.copytree(model, teacher)
    (teacher / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (teacher / "generation_config.json").write_text(json.dumps(generation))
    tree = tree_of(teacher)
    tree["sampling"] = {**tree.get("sampling", {}), **sampling}
    checks = recipe_checks(RunConfig.model_validate(tree))
    return [(check.found, check.remedy) for check in checks if check.name == "teacher's decoding"]


def test_a_teachers_own_decoding_is_offered(tmp_path: Path, tiny_model: Path) -> None:
    card = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 1}
    ((found, remedy),) = _offered(tmp_path, tiny_model, card, temperature=0.7, top_p=0.95)
    assert found == "its generation_config.json recommends temperature 0.6, top_k 20; this run has temperature 0.7, no top_k"
    assert remedy == "to follow it: --set sampling.temperature=0.6 --set sampling.top_k=20"


@pytest.mark.parametrize(
    "card", [None, {}, {"do_sample": False, "temperature": 0.6}, {"temperature": 0.5}, {"temperature": None, "top_p": "many"}]
)
def test_nothing_is_offered_where_nothing_else_is_recommended(
    tmp_path: Path, tiny_model: Path, card: dict[str, Any] | None
) -> None:
    assert _offered(tmp_path, tiny_model, card, temperature=0.5) == []
