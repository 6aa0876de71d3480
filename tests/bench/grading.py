"""What a grade costs: `make bench-grading`.

CPU time of one core, best of three rounds, over texts of a rationale's length in which the answer is boxed, stated or only mentioned;
then math-verify's process: its start, and pairs of different answers as a wrong one makes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from pipeline.grading import grade, symbolic

ROUNDS = 3
ITEMS = 2000
REASONING = (
    "First, the ducks lay 16 eggs per day. She eats three for breakfast and bakes muffins with four, so 16 - 3 - 4 = 9 eggs remain. She "
    "sells the remainder for $2 per egg, so she makes 9 * 2 = $18 every day at the market, which no other farmer there does. "
) * 2
OPTIONS = ("bank", "library", "department store", "mall", "new york")
TEXTS: dict[str, tuple[str, Callable[[int], str], str]] = {
    "number, boxed, alone": ("number", lambda n: f"The answer is \\boxed{{{n}}}.", "7"),
    "number, boxed": ("number", lambda n: f"{REASONING}The answer is \\boxed{{{n}}}.", "7"),
    "number, stated": ("number", lambda n: f"{REASONING}The answer is ${n:,}.", "7"),
    "number, mentioned": ("number", lambda n: f"{REASONING}So she makes {n} dollars", "7"),
    "choice, stated": ("choice", lambda n: f"{REASONING}The answer is ({'ABCDE'[n % 5]}).", "B"),
    "boolean, stated": ("boolean", lambda n: f"{REASONING}The answer is {'yes' if n % 2 else 'no'}.", "yes"),
    "date, stated": ("date", lambda n: f"{REASONING}The answer is 03/04/{2000 + n % 100}.", "2021-03-04"),
    "text, stated": ("text", lambda n: f"{REASONING}The answer is red fox {n}.", "red fox"),
    "math, a number, boxed": ("math", lambda n: f"{REASONING}The answer is \\boxed{{\\frac{{{n}}}{{7}}}}.", "1/7"),
}
EXPRESSIONS = (
    "x^2+1", "(3,\\frac{\\pi}{2})", "5\\sqrt{2}", "[1,2)", "(-\\infty,2)\\cup(3,\\infty)", "\\{1,2\\}", "y=2x+1", "6-5i",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "3\\pm\\sqrt{2}", "\\frac{9\\pi}{4}", "2k-3", "p^2q", "x<2", "\\tan x", "\\log_2 12",
)  # fmt: skip


def _rate(kind: str, text: Callable[[int], str], gold: str) -> float:
    texts = [text(number) for number in range(ITEMS)]
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for item in texts:
            grade(item, True, gold, kind, OPTIONS if kind == "choice" else ())
        best = min(best, time.process_time() - began)
    return ITEMS / best


def main() -> None:
    for name, (kind, text, gold) in TEXTS.items():
        print(f"{name:24} {len(text(ITEMS - 1)):5} characters {_rate(kind, text, gold):10,.0f} grades/s")
    began = time.monotonic()
    symbolic.equal("1+x", "x+1")
    print(f"math-verify starts and decides its first pair in {time.monotonic() - began:.1f} s")
    worker = psutil.Process(symbolic._running[os.getpid()].pid)
    pairs = [(one, other) for one in EXPRESSIONS for other in EXPRESSIONS if one != other]
    before = sum(worker.cpu_times()[:2])
    for one, other in pairs:
        symbolic.equal(one, other)
    seconds = sum(worker.cpu_times()[:2]) - before
    print(
        f"{len(pairs)} pairs of different expressions: {1000 * seconds / len(pairs):.0f} ms each, {worker.memory_info().rss >> 20} MiB"
    )


if __name__ == "__main__":
    main()
