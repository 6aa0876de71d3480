"""Parts of an on-policy step: every part does its work, also when another one has gone first."""

from __future__ import annotations

from stages.speed.own_texts import measure


def test_writing_costs_more_than_scoring_in_every_order_of_the_parts() -> None:
    found = measure(3, lambda _line: None)
    writing, scoring = (found[f"{name} own texts / learning from them, in time"].median for name in ("writing", "scoring"))
    assert writing > scoring > 0
