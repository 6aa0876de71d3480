"""Total compute: the operations that models of known size do on known tokens, and steps that make arms cost the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.models import LocalModel, ServedModel
from pipeline.config.run import RunConfig, load_config
from pipeline.config.soft_targets import OnPolicy
from pipeline.errors import ConfigError
from pipeline.model_folders import load_causal_model
from stages.core.summaries import SynthesisSummary, TrainingSummary
from stages.experiments.total_compute import Compute, steps_of_equal_compute, total_compute
from storage.artifact import Artifact
from storage.store import Store
from tests.support.kill_campaign import CONFIG, only_artifact, overrides


@pytest.fixture
def run(undisturbed: Path) -> RunConfig:
    return load_config(CONFIG, overrides(undisturbed, "http://127.0.0.1:9/v1"))


@pytest.fixture
def artifacts(undisturbed: Path) -> dict[str, Artifact]:
    return {name: only_artifact(Store(undisturbed), name) for name in ("sampling", "synthesis", "training")}


def _with(run: RunConfig, **training: Any) -> RunConfig:
    return run.model_copy(update={"training": run.training.model_copy(update=training)})


def test_a_step_costs_six_operations_per_parameter_and_token_and_a_probe_two(
    run: RunConfig, artifacts: dict[str, Artifact]
) -> None:
    assert isinstance(run.student, LocalModel)
    size, trained = load_causal_model(run.student, "float32").num_parameters(), TrainingSummary.of(artifacts["training"])
    assert trained.tokens_passed > trained.tokens_trained
    assert trained.tokens_probed > 0
    found = total_compute(run, artifacts)
    assert found.training == pytest.approx(size * (6 * trained.tokens_passed + 2 * trained.tokens_probed))
    assert (found.scores, found.own_texts) == (0, 0)


def test_features_read_every_kept_rationale_once_if_the_arm_uses_them(run: RunConfig, artifacts: dict[str, Artifact]) -> None:
    assert isinstance(run.student, LocalModel)
    size, kept = load_causal_model(run.student, "float32").num_parameters(), SynthesisSummary.of(artifacts["synthesis"])
    found = total_compute(run, artifacts).features
    assert 2 * size * kept.tokens_kept < found < 2 * size * (kept.tokens_kept + 200 * kept.kept_questions)
    uniform = run.training.mixture.model_copy(update={"weights": "uniform"})
    assert total_compute(_with(run, mixture=uniform), artifacts).features == 0


def test_the_teacher_is_counted_for_the_perspectives_of_the_arm(run: RunConfig, artifacts: dict[str, Artifact]) -> None:
    alone = total_compute(_with(run, perspectives=("formal",)), artifacts).sampling
    every = total_compute(run, artifacts).sampling
    assert 0.04 * every < alone < 0.3 * every
    served = run.model_copy(update={"teacher": ServedModel(served=True)})
    assert total_compute(served, artifacts).sampling == 0, "its size is unknown"


class WithOwnTexts(Artifact):
    """A training with one own text of three tokens, prompt included."""

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        own = pa.table({"prompt_tokens": [[1, 2]], "tokens": [[3]]})
        return own if name == "own_texts" else super().table(name, columns)


def test_an_arm_on_own_texts_alone_needs_no_samples(run: RunConfig, artifacts: dict[str, Artifact]) -> None:
    assert isinstance(run.student, LocalModel) and isinstance(run.teacher, LocalModel)
    training = WithOwnTexts(artifacts["training"].folder, artifacts["training"].manifest)

    def found(**policy: float) -> Compute:
        changed = _with(run, on_policy=OnPolicy.model_validate({"share": 1.0, **policy}))
        return total_compute(changed, {**artifacts, "training": training})

    assert found().sampling == 0
    assert found(after=0.5).sampling == found(share=0.5).sampling > 0
    sizes = sum(load_causal_model(model, "float32").num_parameters() for model in (run.student, run.teacher))
    assert found().own_texts == 2 * sizes * 3


COSTS = st.floats(1e9, 1e15)


@given(COSTS, COSTS, COSTS, COSTS, COSTS, st.integers(10, 1000))
def test_with_its_steps_an_arm_costs_what_the_other_does(
    before: float, each: float, sampling: float, training: float, own: float, steps: int
) -> None:
    arm = Compute(before, 0, 0, each * steps, 0)
    mind = Compute(before + sampling, 0, 0, training, own)
    number = steps_of_equal_compute("arm", [arm], [mind], steps)
    assert number >= 1
    assert before + number * each == pytest.approx(mind.total, abs=max(0.5 * each, each if number == 1 else 0), rel=1e-9)


def test_several_runs_count_by_their_mean() -> None:
    runs = [Compute(0, 0, 0, training, 0) for training in (1.0, 3.0)]
    assert steps_of_equal_compute("arm", runs, [Compute(2, 0, 2, 4, 0)], 10) == 40


def test_an_arm_of_unknown_cost_or_too_dear_before_its_first_step_is_refused() -> None:
    mind, unknown = Compute(2, 0, 0, 5, 0), Compute(*(float("nan") for _ in Compute._fields))
    for arm, said in (
        (Compute(8, 0, 0, 1, 0), "costs more before its first step"),
        (unknown, "the cost of arm 'arm' is unknown"),
    ):
        with pytest.raises(ConfigError, match=said):
            steps_of_equal_compute("arm", [arm], [mind], 10)
