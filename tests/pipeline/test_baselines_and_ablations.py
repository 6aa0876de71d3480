from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines_and_ablations import KEPT, Volume, arms
from pipeline.config.presets import preset_tree
from pipeline.config.run import RunConfig, load_config
from pipeline.perspectives.perspective import load_perspectives
from pipeline.schema.fields import identity_fields

SCIENCE = Path(__file__).parents[2] / "configs/science.yaml"
NAMES = [item.name for item in load_perspectives(None)]
BASE = load_config(SCIENCE)
VOLUME = Volume(BASE.training.questions_per_step, BASE.training.questions_per_micro_batch)
ARMS = arms(VOLUME, NAMES, "analogy")


def _run(name: str) -> RunConfig:
    (arm,) = (arm for arm in ARMS if arm.name == name)
    return load_config(SCIENCE, arm.assignments())


@pytest.mark.parametrize("name", [arm.name for arm in ARMS])
def test_every_arm_is_valid_and_shares_steps_teacher_and_questions(name: str) -> None:
    run = _run(name)
    assert run.training.steps == BASE.training.steps
    assert run.training.learning_rate == BASE.training.learning_rate
    assert (run.teacher, run.questions, run.sampling, run.evaluation) == (
        BASE.teacher, BASE.questions, BASE.sampling, BASE.evaluation,
    )  # fmt: skip


def test_no_two_arms_are_the_same() -> None:
    identities = [repr(identity_fields(_run(arm.name))) for arm in ARMS]
    assert len(set(identities)) == len(ARMS) == len({arm.name for arm in ARMS})


def test_the_mind_arm_is_the_unchanged_configuration() -> None:
    assert identity_fields(_run("mind")) == identity_fields(BASE)


def test_the_paper_arm_is_the_preset_with_the_experiment_s_own_values() -> None:
    run, tree = _run("paper"), preset_tree("paper")
    changed = {"objective", "synthesis", "training", "preset"}
    assert run.model_dump(exclude=changed) == BASE.model_dump(exclude=changed)
    assert run.objective.model_dump() | tree["objective"] == run.objective.model_dump()
    assert run.synthesis.metanet == BASE.synthesis.metanet.model_copy(update={"alignment": "mlp"})
    assert run.training.mixture == BASE.training.mixture.model_copy(update=tree["training"]["mixture"])
    assert run.training.metanet_rate == BASE.training.metanet_rate


@pytest.mark.parametrize(
    ("name", "rationales"), [(f"single-{NAMES[0]}", 1), ("mcc-kd", 2), ("uniform", 8), ("top-1", 1), ("no-selection", 8)]
)
def test_arms_with_fewer_rationales_per_question_see_more_questions(name: str, rationales: int) -> None:
    assert _run(name).training.questions_per_step * rationales == pytest.approx(BASE.training.questions_per_step * KEPT)


def test_arms_with_soft_targets_share_one_synthesis() -> None:
    soft = [arm.name for arm in ARMS if _run(arm.name).training.soft_targets is not None]
    assert soft == ["forward-kl", "supervised-gkd", "gkd", "mind-soft"]
    assert len({repr(identity_fields(_run(name).synthesis)) for name in soft}) == 1


def test_every_perspective_has_one_specialist() -> None:
    assert [_run(f"single-{name}").training.perspectives for name in NAMES] == [(name,) for name in NAMES]


def test_copies_of_a_perspective_share_its_prompt_but_not_its_name() -> None:
    run = _run("copies-analogy")
    copies = load_perspectives(run.perspectives, run.only_perspectives, run.perspective_copies)
    assert {item.called for item in copies} == {"analogy"}
    assert len({item.name for item in copies}) == len(copies) == len(NAMES)


@given(st.integers(1, 32), st.integers(1, 8), st.floats(1, 8))
def test_no_micro_batch_has_more_rationales_than_the_configuration_s_own(questions: int, parts: int, kept: float) -> None:
    micro = max(1, questions // parts)
    for arm in arms(Volume(questions, micro, kept), NAMES, "analogy"):
        step, taken = (arm.changes[f"training.questions_per_{name}"] for name in ("step", "micro_batch"))
        rationales = {"uniform": 8, "no-selection": 8, "mcc-kd": 2, "top-1": 1, "mind": kept}.get(arm.name)
        assert step % taken == 0
        if rationales is not None and taken > 1:
            assert taken * rationales <= 1.05 * micro * kept
