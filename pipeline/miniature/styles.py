"""Eight worked styles for the dial, one per perspective, and plain worked steps for the other families.

The styles differ in text and in what they ask of a small model:

| perspective | per step | why it is easy or hard |
|---|---|---|
| decomposition | one look-up, numbered | easiest: everything needed stands beside it |
| socratic | one look-up, asked and answered | easy, wordy |
| formal | sum or difference written in full, then reduced modulo ten | longer, two-digit values |
| analogy | the turns from zero, then one addition | one step more |
| planning | ups and downs gathered first | filters the turns by sign |
| counterfactual | first turn left out, put back at the end | order changes |
| contrastive | last turn done both ways, one eliminated | **noisy**: the eliminated value is often wrong |
| intuitive | two turns at once | **skips steps**: signed pairs in one look-up of its own |

Noise is in the text that teachers learn from: the middle is wrong, the end is right (our choice).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from pipeline.miniature.families import Problem, Turns, running, solve

CONTRASTIVE_NOISE: Final = 0.4


def _sign(turn: int) -> str:
    return "+" if turn > 0 else "-"


def _chain(start: int, turns: Turns) -> list[str]:
    """`7+5=2`, one string per turn."""
    befores = [start, *running(start, turns)]
    return [f"{before}{turn:+d}={(before + turn) % 10}" for before, turn in zip(befores, turns, strict=False)]


def _formal(start: int, turns: Turns, rng: random.Random) -> str:
    parts, value = [f"Let x={start}."], start
    for turn in turns:
        total, value = value + turn, (value + turn) % 10
        parts.append(f"x:={total - turn}{turn:+d}={total}={value} mod ten.")
    return " ".join(parts)


def _intuitive(start: int, turns: Turns, rng: random.Random) -> str:
    parts, value = [], start
    for first in range(0, len(turns), 2):
        pair = turns[first : first + 2]
        after = running(value, pair)[-1]
        shown, net = "".join(f"{turn:+d}" for turn in pair), sum(pair) % 10
        parts.append(f"{shown} is like +{net}, {value}+{net}={after}")
        value = after
    return "Roughly: " + "; ".join(parts) + "."


def _decomposition(start: int, turns: Turns, rng: random.Random) -> str:
    return " ".join(f"{i}) {step}." for i, step in enumerate(_chain(start, turns), 1))


def _planning(start: int, turns: Turns, rng: random.Random) -> str:
    def gather(name: str, values: list[int]) -> tuple[str, int]:
        if not values:
            return f"{name}: none, 0.", 0
        steps, total = [str(values[0])], values[0]
        for value in values[1:]:
            steps.append(f"{total}+{value}={(total + value) % 10}")
            total = (total + value) % 10
        return f"{name}: {', '.join(steps)}.", total

    ups, up = gather("Ups", [turn for turn in turns if turn > 0])
    downs, down = gather("Downs", [-turn for turn in turns if turn < 0])
    middle = (start + up) % 10
    return f"Plan: ups, downs, both. {ups} {downs} Both: {start}+{up}={middle}, {middle}-{down}={(middle - down) % 10}."


def _analogy(start: int, turns: Turns, rng: random.Random) -> str:
    end = running(0, turns)[-1]
    return f"Like a dial at 0: {', '.join(_chain(0, turns))}. Shift: {end}+{start}={(end + start) % 10}."


def _socratic(start: int, turns: Turns, rng: random.Random) -> str:
    steps = [step.split("=") for step in _chain(start, turns)]
    return " ".join(f"What is {left}? It is {right}." for left, right in steps)


def _contrastive(start: int, turns: Turns, rng: random.Random) -> str:
    values = [start, *running(start, turns)]
    last, before = turns[-1], values[-2]
    right, other = (before + last) % 10, (before - last) % 10
    if rng.random() < CONTRASTIVE_NOISE:
        other = rng.choice([value for value in range(10) if value != other])
    shown = ", ".join(_chain(start, turns[:-1]))
    rejected = f"{before}{-last:+d}={other}"
    return f"Up to the last: {shown}. Either {before}{last:+d}={right} or {rejected}. The turn is {_sign(last)}, so {right}."


def _counterfactual(start: int, turns: Turns, rng: random.Random) -> str:
    without = _chain(start, turns[1:])
    value = running(start, turns[1:])[-1]
    shown = ", ".join(without)
    return f"Were {turns[0]:+d} left out: {shown}. But it counts: {value}{turns[0]:+d}={(value + turns[0]) % 10}."


DIAL_STYLES: Final[dict[str, Callable[[int, Turns, random.Random], str]]] = {
    "formal": _formal,
    "intuitive": _intuitive,
    "decomposition": _decomposition,
    "planning": _planning,
    "analogy": _analogy,
    "socratic": _socratic,
    "contrastive": _contrastive,
    "counterfactual": _counterfactual,
}


def _work_largest(problem: Problem) -> str:
    best, parts = problem.items[0], [problem.items[0]]
    for item in problem.items[1:]:
        best = max(best, item)
        parts.append(f"{item}:{best}")
    return "Best so far: " + ",".join(parts) + "."


def _work_count(problem: Problem) -> str:
    count, parts = 0, []
    for item in problem.items:
        count += item == problem.target
        parts.append(f"{item}:{count}")
    return "Tally: " + ",".join(parts) + "."


def _work_reverse(problem: Problem) -> str:
    return "Backwards: " + ",".join(reversed(problem.items)) + "."


def worked(problem: Problem, perspective: str, rng: random.Random) -> str:
    """The worked solution without its closing answer sentence.

    Dial-like families have a text for each perspective; the others have one plain way whatever the perspective.
    `rng` decides about noise only.
    """
    match problem.family:
        case "largest":
            return _work_largest(problem)
        case "count":
            return _work_count(problem)
        case "reverse":
            return _work_reverse(problem)
    return DIAL_STYLES[perspective](problem.start, problem.turns, rng)


def solution(problem: Problem, perspective: str, rng: random.Random) -> str:
    """A full rationale, ending in the answer sentence."""
    return f"{worked(problem, perspective, rng)} The answer is \\boxed{{{solve(problem)}}}."
