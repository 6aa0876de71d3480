"""Procedural question families with exact answers.

A `Problem` is the machine-readable form of a question; `draw` makes one from a random stream, `ask` words it
and `solve` computes the answer. In distribution: `dial` (two to four turns of a dial with ten marks). Out of
distribution: the same with more turns (`dial_long`) and in other words (`lift`), and other operations (`largest`,
`count`, `reverse`). A question belongs to train, dev or test by a hash of its text, for ever and everywhere,
so that no question can reach two of them (our choice).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Split = Literal["train", "dev", "test"]
Turns = tuple[int, ...]

ID_FAMILY: Final = "dial"
OOD_FAMILIES: Final = ("dial_long", "lift", "largest", "count", "reverse")
LETTERS: Final = "abcd"


@dataclass(frozen=True)
class Problem:
    """One problem. `start` and signed `turns` for dial-like families, `items` for lists, `target` for counting."""

    family: str
    start: int = 0
    turns: Turns = ()
    items: tuple[str, ...] = ()
    target: str = ""


def _turns(rng: random.Random, low: int, high: int) -> Turns:
    return tuple(rng.choice((-1, 1)) * rng.randint(1, 9) for _ in range(rng.randint(low, high)))


def _draw_dial(rng: random.Random) -> Problem:
    return Problem("dial", start=rng.randint(0, 9), turns=_turns(rng, 2, 4))


def _draw_dial_long(rng: random.Random) -> Problem:
    return Problem("dial_long", start=rng.randint(0, 9), turns=_turns(rng, 5, 6))


def _draw_lift(rng: random.Random) -> Problem:
    return Problem("lift", start=rng.randint(0, 9), turns=_turns(rng, 2, 4))


def _draw_largest(rng: random.Random) -> Problem:
    return Problem("largest", items=tuple(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 7))))


def _draw_count(rng: random.Random) -> Problem:
    items = tuple(rng.choice(LETTERS) for _ in range(rng.randint(4, 9)))
    return Problem("count", items=items, target=rng.choice(LETTERS))


def _draw_reverse(rng: random.Random) -> Problem:
    return Problem("reverse", items=tuple(rng.choice("abcdefgh") for _ in range(rng.randint(3, 6))))


_DRAW: Final[dict[str, Callable[[random.Random], Problem]]] = {
    "dial": _draw_dial,
    "dial_long": _draw_dial_long,
    "lift": _draw_lift,
    "largest": _draw_largest,
    "count": _draw_count,
    "reverse": _draw_reverse,
}


def draw(family: str, rng: random.Random) -> Problem:
    """One random problem of `family`."""
    return _DRAW[family](rng)


def size(problem: Problem) -> int:
    """Turns or items: how long the question is."""
    return len(problem.turns) or len(problem.items)


def ask(problem: Problem) -> str:
    """The question in words."""
    items = "-".join(problem.items)
    match problem.family:
        case "dial" | "dial_long":
            turns = ", ".join(f"{turn:+d}" for turn in problem.turns)
            return f"A dial with ten marks reads [{problem.start}]. Turn it {turns}. What does it read?"
        case "lift":
            moves = ", then ".join(f"{'up' if turn > 0 else 'down'} ({abs(turn)})" for turn in problem.turns)
            return f"Ten floors form a ring. The lift is at ({problem.start}) and goes {moves}. Where is it?"
        case "largest":
            return f"Which is the largest of [{items}]?"
        case "count":
            return f"How many marks in [{items}] are [{problem.target}]?"
        case "reverse":
            return f"Read [{items}] from back to front."
    raise ValueError(f"unknown family {problem.family!r}")


def running(start: int, turns: Turns) -> list[int]:
    """The dial after each turn, modulo ten; `start` is not repeated."""
    values = []
    for turn in turns:
        start = (start + turn) % 10
        values.append(start)
    return values


def solve(problem: Problem) -> str:
    """The canonical answer."""
    match problem.family:
        case "dial" | "dial_long" | "lift":
            return str(running(problem.start, problem.turns)[-1])
        case "largest":
            return max(problem.items)
        case "count":
            return str(problem.items.count(problem.target))
        case "reverse":
            return "-".join(reversed(problem.items))
    raise ValueError(f"unknown family {problem.family!r}")


def question_id(problem: Problem) -> str:
    """Stable id from the text alone: `miniature/<family>/<12 hex digits>`."""
    digest = hashlib.sha256(ask(problem).encode()).hexdigest()
    return f"miniature/{problem.family}/{digest[:12]}"


def split_of(problem: Problem) -> Split:
    """80 % train, 10 % dev, 10 % test, decided by the question's text."""
    bucket = int(hashlib.sha256(ask(problem).encode()).hexdigest()[:8], 16) % 10
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def stream(family: str, split: Split, seed: int) -> Iterator[Problem]:
    """Endless problems of one family and split, with repetitions where the family is small."""
    rng = random.Random(f"{family}/{split}/{seed}")
    while True:
        problem = draw(family, rng)
        if split_of(problem) == split:
            yield problem


def distinct(family: str, split: Split, count: int, seed: int) -> Iterator[Problem]:
    """`count` different problems of one family and split, as they are drawn."""
    seen: set[str] = set()
    for tries, problem in enumerate(stream(family, split, seed)):
        if (identity := question_id(problem)) not in seen:
            seen.add(identity)
            yield problem
        if len(seen) == count:
            return
        if tries > 200 * count:
            raise ValueError(f"family {family!r} has fewer than {count} different {split} questions")
