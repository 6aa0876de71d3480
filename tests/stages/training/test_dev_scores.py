"""Dev scores while training: those of the exported student, without an influence on the steps, and only of dev sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError, QuestionError
from pipeline.generation.engine import Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import stops, student_prompt
from pipeline.questions.question import grades
from stages.core.plan import plan
from stages.core.summaries import TrainingSummary
from stages.training.dev_scores import best_step, dev_questions
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.store import Store
from tests.support.kill_campaign import (
    CONFIG,
    copy_inputs,
    only_artifact,
    overrides,
    start_stage,
    wait_for_end,
    write_stage_config,
)

NOBODY = "http://127.0.0.1:9/v1"


def _run(root: Path, *changes: str) -> RunConfig:
    return load_config(CONFIG, (*overrides(root, NOBODY), *changes))


@pytest.fixture(scope="module")
def training(undisturbed: Path) -> Artifact:
    """A training with dev scores, on two ranks."""
    return only_artifact(Store(undisturbed), "training")


def _config(undisturbed: Path) -> Config:
    config = plan(_run(undisturbed))["training"].config
    assert isinstance(config, Config)
    return config


def test_the_exported_student_gives_the_answers_that_were_counted(undisturbed: Path, training: Artifact) -> None:
    config, student = _config(undisturbed), LocalModel(path=training.path("student"), chat=False)
    exported = TrainingSummary.of(training).exported_step
    asked = dev_questions(config, only_artifact(Store(undisturbed), "questions"), load_tokenizer(student), None)
    decoding = Decoding(0.0, 1.0, 32, stop=stops(config.prompts, config.prompts.question, student))
    with open_engine(EngineConfig(kind="transformers", dtype="float32"), student) as engine:
        said = engine.generate([student_prompt(config.prompts, item.question) for item in asked], [0] * len(asked), decoding)
    found = grades([(item.question, one.text, one.finish_reason == "stop") for item, one in zip(asked, said, strict=True)])
    for row in training.table("dev").to_pylist():
        if row["step"] == exported:
            mine = [number for number, item in enumerate(asked) if item.set == row["set"]]
            assert row["items"] == len(mine)
            assert row["tokens"] == sum(said[number].completion_tokens for number in mine)
            for outcome in ("correct", "wrong", "unparsed", "truncated"):
                assert row[outcome] == sum(found[number].outcome.value == outcome for number in mine)


def test_the_base_and_every_interval_and_the_last_step_are_scored(training: Artifact) -> None:
    table = training.table("dev")
    assert table["step"].to_pylist() == [step for step in (0, 3, 6, 9, 12) for _ in range(2)]
    assert set(table["set"].to_pylist()) == {"dial-dev", "lift-dev"}


def test_the_first_of_the_best_students_is_exported(training: Artifact) -> None:
    rows, summary = training.table("dev").to_pylist(), TrainingSummary.of(training)
    right = {step: sum(row["correct"] for row in rows if row["step"] == step) for step in (3, 6, 9, 12)}
    assert summary.exported_step == min(step for step in right if right[step] == max(right.values()))
    assert summary.dev is not None and summary.dev["all"] == pytest.approx(max(right.values()) / 9)


def test_the_steps_are_those_of_a_training_without_dev_scores(undisturbed: Path, training: Artifact, tmp_path: Path) -> None:
    run = _run(tmp_path, "training.dev=null")
    copy_inputs(undisturbed, tmp_path, run, "training")
    config = write_stage_config(run)
    assert wait_for_end(start_stage("training", config), config) == 0
    plain = only_artifact(Store(tmp_path), "training")
    names = ["loss", "loss_meta", "alpha_K", "losses_K", "gradient_norm"]
    assert plain.table("steps", names).equals(training.table("steps", names))
    assert TrainingSummary.of(plain).dev is None


def _rows(right: list[int], items: int = 10) -> list[dict[str, Any]]:
    return [{"step": 5 * number, "set": "sums", "items": items, "correct": count} for number, count in enumerate(right)]


@given(st.lists(st.integers(0, 10), min_size=2, max_size=12))
def test_the_best_step_is_the_first_with_the_highest_accuracy_after_the_base(right: list[int]) -> None:
    found = best_step(_rows(right), "sums")
    trained = right[1:]
    assert found == 5 * (1 + trained.index(max(trained)))
    assert best_step(_rows(right[:1]), "sums") is None


def test_a_prompt_without_room_is_refused_by_name(undisturbed: Path, training: Artifact) -> None:
    questions = only_artifact(Store(undisturbed), "questions")
    tokenizer = load_tokenizer(LocalModel(path=training.path("student"), chat=False))
    with pytest.raises(
        QuestionError, match=r"of dial-dev: its prompt has \d+ tokens; with training.dev.max_tokens 32 it exceeds"
    ):
        dev_questions(_config(undisturbed), questions, tokenizer, 40)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.dev={every: 0}", "training.dev.every"),
        ("training.dev={every: 2, sets: [dial]}", "'dial' is no set with use: dev; those are dial-dev, lift-dev"),
        ("training.dev={every: 2, sets: [dial-dev], keep_best: lift-dev}", "is not answered; use one of dial-dev, all"),
        ("training.zero_stage=3", "under zero_stage 3 no rank has a whole student"),
    ],
)
def test_wrong_dev_scores_are_one_clear_line(tmp_path: Path, change: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as refused:
        _run(tmp_path, change)
    assert "\n" not in str(refused.value)


def test_dev_scores_without_a_dev_set_are_refused(tmp_path: Path) -> None:
    tests_only = (
        "questions.evaluation=[{name: dial, group: id, source: {kind: miniature, family: dial, split: test, count: 4}}]"
    )
    with pytest.raises(ConfigError, match=r"training\.dev: no set under questions\.evaluation has use: dev"):
        _run(tmp_path, tests_only)
