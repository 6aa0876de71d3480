"""Promotion policy: when a candidate replaces the incumbent."""

from __future__ import annotations

import pytest

from pipeline.analysis.accuracy_numbers import PairedChange
from pipeline.analysis.promotion_rule import Policy, decide


def change(value: float, low: float, high: float, p: float = 1.0) -> PairedChange:
    return PairedChange(change=value, low=low, high=high, p=p)


def changes(id_low: float, **ood: tuple[float, float]) -> dict[str, PairedChange]:
    found = {"group:id": change(id_low + 0.01, id_low, id_low + 0.02)}
    return found | {f"set:{name}": change(value, value - 0.1, value + 0.1, p) for name, (value, p) in ood.items()}


@pytest.mark.parametrize(("low", "promoted"), [(0.01, True), (-0.019, True), (-0.02, False), (-0.2, False)])
def test_in_distribution_the_interval_must_stay_above_the_margin(low: float, promoted: bool) -> None:
    decision = decide(changes(low), [], Policy(margin=0.02))
    assert decision.promote is promoted
    assert ("not worse" in decision.reasons[0]) is promoted


def test_one_significant_loss_refuses_promotion_and_is_named() -> None:
    decision = decide(changes(0.05, lift=(0.1, 1e-9), count=(-0.2, 1e-6)), ["lift", "count"], Policy())
    assert not decision.promote
    assert any(reason.startswith("Worse on count: -20.0 points") for reason in decision.reasons)
    assert not any("lift" in reason for reason in decision.reasons)


def test_a_significant_gain_does_not_refuse_promotion() -> None:
    assert decide(changes(0.0, lift=(0.3, 1e-12)), ["lift"], Policy()).promote


def test_p_values_are_corrected_for_the_number_of_sets() -> None:
    sets = {f"s{number}": (-0.05, 0.03) for number in range(5)}
    assert decide(changes(0.0, **sets), list(sets), Policy(alpha=0.05)).promote
    assert not decide(changes(0.0, s0=(-0.05, 0.03)), ["s0"], Policy(alpha=0.05)).promote
