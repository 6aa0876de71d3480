"""Cells of a phase diagram: the same experiment with another student and another number of questions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.experiments.compare_arms import Experiment, runs_of
from flows.experiments.phase_diagram import Phase, cells_of
from pipeline.errors import ConfigError
from tests.support.runs import tree_of, write_config


@pytest.fixture
def experiment(tmp_path: Path, tiny_model: Path) -> dict[str, Any]:
    tree = tree_of(tiny_model)
    tree["questions"]["train"] *= 2
    tree["training"] |= {"ranks": 1}
    return {"config": str(write_config(tmp_path, tree)), "arms": ("mind", "uniform"), "seeds": 1}


def test_questions_are_divided_evenly_among_the_sources(experiment: dict[str, Any], tiny_model: Path) -> None:
    places = cells_of(Phase(experiment=Experiment(**experiment), students={"tiny": str(tiny_model)}, questions=(10, 40)))
    runs = [runs_of(place.experiment)[0] for place in places]
    assert [[source.count for source in run.config.questions.train] for run in runs] == [[5, 5], [20, 20]]  # type: ignore[union-attr]


def test_questions_and_sampling_are_shared_by_students(experiment: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "generation_config.json").write_text('{"pad_token_id": 0}')
    places = cells_of(
        Phase(experiment=Experiment(**experiment), students={"one": str(tiny_model), "other": str(other)}, questions=(10,))
    )
    first, second = (runs_of(place.experiment)[0].planned for place in places)
    assert [name for name in first if first[name].fingerprint == second[name].fingerprint] == ["questions", "sampling"]


@pytest.mark.parametrize(
    ("questions", "arms", "said"),
    [
        (11, ("mind", "uniform"), "--questions 11: not divisible by the 2 sources; give a multiple of 2"),
        (10, ("mind", "top-1"), "--arms: none is a baseline to compare with"),
    ],
)
def test_an_invalid_phase_diagram_is_refused(
    experiment: dict[str, Any], tiny_model: Path, questions: int, arms: tuple[str, ...], said: str
) -> None:
    chosen = Experiment(**{**experiment, "arms": arms})
    with pytest.raises(ConfigError, match=said):
        cells_of(Phase(experiment=chosen, students={"tiny": str(tiny_model)}, questions=(questions,)))
