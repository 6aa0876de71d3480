"""Eight solution styles for ring questions, one per perspective, and one plain style for the other families.

The styles differ in text. Each takes small steps in some families and **leaps** in others: it takes two turns at once and does not write
the intermediate value. A model that cannot take two turns in one look-up can therefore follow each perspective on some of the questions,
and no perspective on all of them:

| perspective | small steps in | text |
|---|---|---|
| decomposition | dial, belt | numbered |
| socratic | belt, wheel | question and answer |
| formal | wheel, clock | with a symbol |
| analogy | dial, clock | the turns from zero, then one addition |
| contrastive | belt, wheel | last turn in both directions; **noisy**: the rejected value is often wrong |
| planning | dial, clock | all ups first, then all downs |
| counterfactual | wheel, clock | first turn omitted and added at the end: changed order |
| intuitive | none | always two turns at once |

Before a leap the teacher thinks, `<think>1) 6-5=1. 2) 1+7=8.</think> 1) 6-5+7=8.`, and therefore reaches the correct value; its thoughts
are not part of the rationale. In families that are not distilled, all perspectives except `intuitive` take small steps. The noise is in the
teacher's training text: the intermediate value is wrong, the final value is correct (our choice).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from pipeline.questions.procedural import ID_FAMILIES, Problem, Rotations, running, solve

CONTRASTIVE_NOISE: Final = 0.4
_SMALL_STEPS: Final = {
    "formal": ("wheel", "clock"),
    "intuitive": (),
    "decomposition": ("dial", "belt"),
    "planning": ("dial", "clock"),
    "analogy": ("dial", "clock"),
    "socratic": ("belt", "wheel"),
    "contrastive": ("belt", "wheel"),
    "counterfactual": ("wheel", "clock"),
}


def leaps(perspective: str, family: str) -> bool:
    """Whether a perspective takes two turns at once in questions of a family."""
    return perspective == "intuitive" or (family in ID_FAMILIES and family not in _SMALL_STEPS[perspective])


def _steps(start: int, turns: Rotations, stride: int) -> list[str]:
    """`7+5=2`, or `7+5-3=9` with stride 2; one string per step."""
    said, value = [], start
    for first in range(0, len(turns), stride):
        taken = turns[first : first + stride]
        after = running(value, taken)[-1]
        said.append(f"{value}{''.join(f'{turn:+d}' for turn in taken)}={after}")
        value = after
    return said


def _formal(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    return " ".join([f"Let x={start}.", *(f"x:={step}." for step in _steps(start, turns, stride))])


def _intuitive(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    return f"Roughly: {'; '.join(_steps(start, turns, stride))}."


def _decomposition(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    return " ".join(f"{i}) {step}." for i, step in enumerate(_steps(start, turns, stride), 1))


def _planning(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    ups, downs = (tuple(turn for turn in turns if turn * sign > 0) for sign in (1, -1))
    middle = (start + sum(ups)) % 10
    first, last = _steps(start, ups, stride) or ["none"], _steps(middle, downs, stride) or ["none"]
    return f"Plan: ups, downs. Ups: {', '.join(first)}. Downs: {', '.join(last)}."


def _analogy(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    end = running(0, turns)[-1]
    return f"Like one at 0: {', '.join(_steps(0, turns, stride))}. Shift: {end}+{start}={(end + start) % 10}."


def _socratic(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    steps = [step.split("=") for step in _steps(start, turns, stride)]
    return " ".join(f"What is {left}? It is {right}." for left, right in steps)


def _contrastive(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    values = [start, *running(start, turns)]
    last, before = turns[-1], values[-2]
    right, other = (before + last) % 10, (before - last) % 10
    if rng.random() < CONTRASTIVE_NOISE:
        other = rng.choice([value for value in range(10) if value != other])
    shown = ", ".join(_steps(start, turns[:-1], stride))
    rejected = f"{before}{-last:+d}={other}"
    sign = "+" if last > 0 else "-"
    return f"Up to the last: {shown}. Either {before}{last:+d}={right} or {rejected}. The turn is {sign}, so {right}."


def _counterfactual(start: int, turns: Rotations, stride: int, rng: random.Random) -> str:
    value = running(start, turns[1:])[-1]
    shown = ", ".join(_steps(start, turns[1:], stride))
    return f"Were {turns[0]:+d} left out: {shown}. But it counts: {value}{turns[0]:+d}={(value + turns[0]) % 10}."


RING_STYLES: Final[dict[str, Callable[[int, Rotations, int, random.Random], str]]] = {
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


def worked(problem: Problem, perspective: str, rng: random.Random, stride: int) -> str:
    """The worked solution without its closing answer sentence; `stride` turns per step.

    Ring questions have one text per perspective; the other families have one plain text for all perspectives. `rng` decides only the noise.
    """
    match problem.family:
        case "largest":
            return _work_largest(problem)
        case "count":
            return _work_count(problem)
        case "reverse":
            return _work_reverse(problem)
    return RING_STYLES[perspective](problem.start, problem.turns, stride, rng)


def solution(problem: Problem, perspective: str, rng: random.Random) -> str:
    """A complete rationale, ending in the answer sentence."""
    stride = 2 if leaps(perspective, problem.family) else 1
    return f"{worked(problem, perspective, rng, stride)} The answer is \\boxed{{{solve(problem)}}}."


def thoughtful_solution(problem: Problem, perspective: str, rng: random.Random) -> str:
    """The teacher's text: a solution that leaps is preceded by the same steps without leaps as a thought."""
    if not problem.turns or not leaps(perspective, problem.family):
        return solution(problem, perspective, rng)
    noise = rng.random()
    thought = worked(problem, perspective, random.Random(noise), 1)
    return f"<think>{thought}</think> {solution(problem, perspective, random.Random(noise))}"
