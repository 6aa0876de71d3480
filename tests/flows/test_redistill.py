"""Scheduled re-distillation without a server: when to distil, comparison with the incumbent, promotion and rollback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import redistill
from flows.redistill import judge
from flows.run_records import fingerprints
from pipeline.analysis.promotion_rule import Policy
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from stages.core.plan import plan
from stages.core.process import run_stage, store_of
from stages.evaluation import stage as evaluation
from stages.promotion import PROMOTED, decisions, rollback, settle, why_not
from storage.catalogue import point, read_pointer
from storage.errors import ArtifactMissing
from storage.store import Store
from tests.support.evaluations import Item, commit_evaluation

SETS = {"dial": ("id", 200), "lift": ("ood", 40), "count": ("ood", 40)}


def every(item: Item) -> bool:
    return True


def none(item: Item) -> bool:
    return False


def all_but_lift(item: Item) -> bool:
    return item[1] != "lift"


@dataclass(frozen=True)
class World:
    """A root and configurations with different learning rates, one per student."""

    tree: dict[str, Any]

    def config(self, rate: float = 1e-4) -> RunConfig:
        training = {**self.tree["training"], "learning_rate": rate}
        return RunConfig.model_validate({**self.tree, "training": training, "name": f"rate-{rate:g}"})

    @property
    def store(self) -> Store:
        return store_of(self.config())

    def student(self, rate: float) -> str:
        return plan(self.config(rate))["training"].fingerprint

    def evaluated(self, rate: float, right: Callable[[Item], bool]) -> RunConfig:
        """The configuration of a candidate that is evaluated with these answers."""
        config = self.config(rate)
        run_stage(config, "questions")
        commit_evaluation(self.store, plan(config), right)
        return config

    def night(self, rate: float, right: Callable[[Item], bool]) -> dict[str, Any]:
        """Evaluates and judges a candidate, and carries out the decision."""
        config = self.evaluated(rate, right)
        return settle(config, *judge(config, Policy()))

    def promoted(self) -> str | None:
        found = read_pointer(self.store.backend, PROMOTED)
        return None if found is None else str(found["stages"]["training"])


@pytest.fixture
def world(run_tree: dict[str, Any], tmp_path: Path) -> World:
    source = {"kind": "miniature", "split": "test", "seed": 1}
    sets = [
        {"name": name, "group": group, "source": {**source, "family": name, "count": count}}
        for name, (group, count) in SETS.items()
    ]
    questions = {**run_tree["questions"], "evaluation": sets}
    return World({**run_tree, "root": str(tmp_path / "root"), "questions": questions})


def test_without_a_promoted_student_there_is_work(world: World) -> None:
    assert why_not(world.store, world.student(1e-4)) is None


def test_the_first_candidate_is_compared_with_its_base(world: World) -> None:
    decision, incumbent = judge(world.evaluated(1e-4, every), Policy())
    assert incumbent is None
    assert decision.promote
    assert decision.figures["changes"]["group:id"]["change"] == 1.0


def test_an_equally_good_candidate_is_promoted(world: World) -> None:
    world.night(1e-4, every)
    document = world.night(2e-4, every)
    assert document["promote"]
    assert (document["candidate"], document["incumbent"]) == (world.student(2e-4), world.student(1e-4))
    assert world.promoted() == world.student(2e-4)


@pytest.mark.parametrize(("right", "reason"), [(none, "In distribution may be worse"), (all_but_lift, "Worse on lift")])
def test_a_worse_candidate_is_refused_with_a_reason(world: World, right: Callable[[Item], bool], reason: str) -> None:
    world.night(1e-4, every)
    document = world.night(2e-4, right)
    assert not document["promote"]
    assert any(line.startswith(reason) for line in document["reasons"])
    assert world.promoted() == world.student(1e-4)


def test_the_policy_sets_the_margin(world: World) -> None:
    world.night(1e-4, every)
    lost = iter(range(3))
    candidate = world.evaluated(2e-4, lambda item: next(lost, None) is None)  # three of two hundred
    assert not judge(candidate, Policy(margin=0.01))[0].promote
    assert judge(candidate, Policy(margin=0.2))[0].promote


def test_a_policy_on_sampled_answers_decides_by_them(world: World) -> None:
    drawing = World({**world.tree, "evaluation": {"draws": {"count": 2}}})
    first = drawing.evaluated(1e-4, none)  # sampled: all right
    assert judge(first, Policy(sampled=True))[0].promote
    settle(first, *judge(first, Policy(sampled=True)))
    candidate = drawing.evaluated(2e-4, every)  # sampled: none right
    assert judge(candidate, Policy())[0].promote
    decision, _ = judge(candidate, Policy(sampled=True))
    assert not decision.promote
    assert decision.figures["changes"]["group:id"]["change"] == -1.0


def test_a_policy_on_sampled_answers_needs_some(world: World) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.draws: sampled answers are to be compared, and there are none"):
        judge(world.evaluated(1e-4, every), Policy(sampled=True))


def test_an_outdated_evaluation_is_repeated_but_references_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(evaluation, "VERSION", evaluation.VERSION - 1)
        world.night(1e-4, every)
    candidate = world.evaluated(2e-4, every)
    references = {path: path.read_bytes() for path in world.store.root.glob("references/*/*")}
    again = []

    def answer(stage: str, fingerprint: str, config: RunConfig, given: dict[str, str]) -> None:
        again.append((stage, given))
        assert commit_evaluation(world.store, plan(config, given), every).fingerprint == fingerprint

    monkeypatch.setattr(redistill, "run_stage", answer)
    assert judge(candidate, Policy())[0].promote
    assert again == [("evaluation", {"training": world.student(1e-4)})]
    assert {path: path.read_bytes() for path in world.store.root.glob("references/*/*")} == references


def test_judging_alone_writes_nothing(world: World) -> None:
    world.night(1e-4, every)
    candidate = world.evaluated(2e-4, every)
    before = {path: path.read_bytes() for path in world.store.root.rglob("*") if path.is_file()}
    judge(candidate, Policy())
    assert {path: path.read_bytes() for path in world.store.root.rglob("*") if path.is_file()} == before


def test_promoted_and_refused_students_are_not_distilled_again(world: World) -> None:
    world.night(1e-4, every)
    world.night(2e-4, none)
    assert "has been the promoted student since" in str(why_not(world.store, world.student(1e-4)))
    assert "was refused on" in str(why_not(world.store, world.student(2e-4)))
    assert "In distribution may be worse" in str(why_not(world.store, world.student(2e-4)))
    assert why_not(world.store, world.student(3e-4)) is None


def test_a_refused_candidate_is_retried_against_another_incumbent(world: World) -> None:
    world.night(1e-4, every)
    world.night(2e-4, none)
    other = world.config(3e-4)
    point(world.store.backend, PROMOTED, other.name, fingerprints(plan(other)))
    assert why_not(world.store, world.student(2e-4)) is None


def test_rollback_goes_back_one_version_until_none_is_left(world: World) -> None:
    for rate in (1e-4, 2e-4, 3e-4):
        world.night(rate, every)
    assert rollback(world.store)["stages"]["training"] == world.student(2e-4)
    assert world.promoted() == world.student(2e-4)
    rollback(world.store)
    assert world.promoted() == world.student(1e-4)
    with pytest.raises(ArtifactMissing, match="no earlier version"):
        rollback(world.store)
    assert world.promoted() == world.student(1e-4)


def test_a_rolled_back_student_is_not_promoted_again(world: World) -> None:
    world.night(1e-4, every)
    world.night(2e-4, every)
    rollback(world.store)
    assert "Rolled back by hand" in str(why_not(world.store, world.student(2e-4)))


def test_no_student_is_promoted_again_after_two_rollbacks(world: World) -> None:
    for rate in (1e-4, 2e-4, 3e-4):
        world.night(rate, every)
    rollback(world.store)
    rollback(world.store)
    for rate in (2e-4, 3e-4):
        assert "Rolled back by hand" in str(why_not(world.store, world.student(rate))), rate


def test_decisions_are_kept_in_order_with_their_figures(world: World) -> None:
    world.night(1e-4, every)
    world.night(2e-4, none)
    found = decisions(world.store)
    assert [item["promote"] for item in found] == [True, False]
    assert [item["when"] for item in found] == sorted(item["when"] for item in found)
    assert found[1]["figures"]["changes"]["group:id"]["change"] == -1.0
    assert set(found[1]["figures"]["corrected_p"]) == {"lift", "count"}
