"""Procedural question families with exact answers.

A `Problem` is the machine-readable form of a question; `draw` samples one from a random stream, `ask` writes the question text and `solve`
computes the answer. In distribution: two to four turns of a ring with ten marks, in four wordings (`dial`, `belt`, `wheel`, `clock`). Out
of distribution: more turns (`dial_long`), other wordings (`lift`, `tram`) and other operations (`largest`, `count`, `reverse`). A hash of a
question's text assigns it to train, dev or test, permanently and on every machine, so no question can be in two splits (our choice).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Split = Literal["train", "dev", "test"]
Rotations = tuple[int, ...]

ID_FAMILIES: Final = ("dial", "belt", "wheel", "clock")
OOD_FAMILIES: Final = ("dial_long", "lift", "tram", "largest", "count", "reverse")
LETTERS: Final = "abcd"


@dataclass(frozen=True)
class Problem:
    """One problem. `start` and signed `turns` for rings, `items` for lists, `target` for counting."""

    family: str
    start: int = 0
    turns: Rotations = ()
    items: tuple[str, ...] = ()
    target: str = ""


def _turns(rng: random.Random, low: int, high: int) -> Rotations:
    return tuple(rng.choice((-1, 1)) * rng.randint(1, 9) for _ in range(rng.randint(low, high)))


def _ring(family: str, low: int, high: int) -> Callable[[random.Random], Problem]:
    return lambda rng: Problem(family, start=rng.randint(0, 9), turns=_turns(rng, low, high))


def _draw_largest(rng: random.Random) -> Problem:
    return Problem("largest", items=tuple(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 7))))


def _draw_count(rng: random.Random) -> Problem:
    items = tuple(rng.choice(LETTERS) for _ in range(rng.randint(4, 9)))
    return Problem("count", items=items, target=rng.choice(LETTERS))


def _draw_reverse(rng: random.Random) -> Problem:
    return Problem("reverse", items=tuple(rng.choice("abcdefgh") for _ in range(rng.randint(3, 6))))


_DRAW: Final[dict[str, Callable[[random.Random], Problem]]] = {
    **{family: _ring(family, 2, 4) for family in (*ID_FAMILIES, "lift", "tram")},
    "dial_long": _ring("dial_long", 5, 6),
    "largest": _draw_largest,
    "count": _draw_count,
    "reverse": _draw_reverse,
}


def draw(family: str, rng: random.Random) -> Problem:
    """One random problem of `family`."""
    return _DRAW[family](rng)


def size(problem: Problem) -> int:
    """Number of turns or items, a measure of the question's length."""
    return len(problem.turns) or len(problem.items)


def ask(problem: Problem) -> str:
    """The question text."""
    items, start = "-".join(problem.items), problem.start
    turns = ", ".join(f"{turn:+d}" for turn in problem.turns)
    match problem.family:
        case "dial" | "dial_long":
            return f"A dial with ten marks reads [{start}]. Turn it {turns}. What does it read?"
        case "belt":
            return f"Ten cups ride on a belt. Cup [{start}] is first. Move the belt {turns}. Which cup is first?"
        case "wheel":
            return f"A wheel of ten seats stops at [{start}]. Spin it {turns}. Which seat is it?"
        case "clock":
            return f"A clock of ten hours shows [{start}]. It goes {turns}. Which hour is it?"
        case "lift":
            moves = ", then ".join(f"{'up' if turn > 0 else 'down'} ({abs(turn)})" for turn in problem.turns)
            return f"Ten floors form a ring. The lift is at ({start}) and goes {moves}. Where is it?"
        case "tram":
            moves = "; ".join(f"{abs(turn)} {'forth' if turn > 0 else 'back'}" for turn in problem.turns)
            return f"A tram line is a ring of ten stops. The tram leaves stop <{start}>: {moves}. Where does it end?"
        case "largest":
            return f"Which is the largest of [{items}]?"
        case "count":
            return f"How many marks in [{items}] are [{problem.target}]?"
        case "reverse":
            return f"Read [{items}] from back to front."
    raise ValueError(f"unknown family {problem.family!r}")


def running(start: int, turns: Rotations) -> list[int]:
    """The dial after each turn, modulo ten, without the start."""
    values = []
    for turn in turns:
        start = (start + turn) % 10
        values.append(start)
    return values


def solve(problem: Problem) -> str:
    """The canonical answer."""
    match problem.family:
        case "dial" | "dial_long" | "belt" | "wheel" | "clock" | "lift" | "tram":
            return str(running(problem.start, problem.turns)[-1])
        case "largest":
            return max(problem.items)
        case "count":
            return str(problem.items.count(problem.target))
        case "reverse":
            return "-".join(reversed(problem.items))
    raise ValueError(f"unknown family {problem.family!r}")


def question_id(problem: Problem) -> str:
    """Stable id computed from the question text: `miniature/<family>/<12 hex digits>`."""
    digest = hashlib.sha256(ask(problem).encode()).hexdigest()
    return f"miniature/{problem.family}/{digest[:12]}"


def split_of(problem: Problem) -> Split:
    """80 % train, 10 % dev, 10 % test, decided by a hash of the question text."""
    bucket = int(hashlib.sha256(ask(problem).encode()).hexdigest()[:8], 16) % 10
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def stream(family: str, split: Split, seed: int) -> Iterator[Problem]:
    """Infinite problems of one family and split, with repetitions if the family is small."""
    rng = random.Random(f"{family}/{split}/{seed}")
    while True:
        problem = draw(family, rng)
        if split_of(problem) == split:
            yield problem


def distinct(family: str, split: Split, count: int, seed: int) -> Iterator[Problem]:
    """`count` distinct problems of one family and split, in the order drawn."""
    seen: set[str] = set()
    for tries, problem in enumerate(stream(family, split, seed)):
        if (identity := question_id(problem)) not in seen:
            seen.add(identity)
            yield problem
        if len(seen) == count:
            return
        if tries > 200 * count:
            raise ValueError(f"family {family!r} has fewer than {count} different {split} questions")
