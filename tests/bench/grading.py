"""Benchmark of grading: `make bench-grading`.

CPU time of one core, best of three rounds, over texts of typical length in which the answer is boxed, stated or only mentioned;
then math-verify's worker process: its start, and pairs of different expressions, as wrong answers give them; then the teacher tokens per
second of the whole sampling stage, including grading and commits, with an instant engine (`--stage` runs only this part; `--math` only
math-verify with one worker and with two).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.config.run import RunConfig
from pipeline.generation.engine import Completion, Decoding
from pipeline.grading import symbolic
from pipeline.grading.grade import conclusion, grade
from stages.core import process
from stages.core.plan import plan
from stages.sampling import stage as sampling
from tests.bench.growth import tiny_model
from tests.support import synthetic_artifacts as world

ROUNDS = 3
SAMPLES = 40_000
TOKENS = 150
"""Tokens per answer, at four characters each."""
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


class _Teacher:
    """Answers of typical length, three of four correct."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        return [
            Completion(_answer(prompt, seed), "stop", 40, TOKENS, -1.0) for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def _answer(prompt: str, seed: int) -> str:
    found = re.search(r"Item (\d+):", prompt)
    assert found is not None, prompt
    end = f" {conclusion(str((int(found[1]) + (seed % 4 == 0)) % 10))}"
    return (REASONING * 2)[: 4 * TOKENS - len(end)] + end


@contextmanager
def _open_teacher(*_: object) -> Iterator[_Teacher]:
    yield _Teacher()


def stage_rates(samples: int) -> tuple[float, float]:
    """Tokens per second of the sampling stage: by wall time once its engine is open, and by total CPU time."""
    with tempfile.TemporaryDirectory(prefix="bench-grading-") as folder:
        (model := Path(folder) / "model").mkdir()
        run = RunConfig.model_validate(world.tree(tiny_model(model), Path(folder), "sampling", samples, None, 8))
        world.make_inputs(run, "sampling", samples)
        opens, sampling.open_engine = sampling.open_engine, _open_teacher  # type: ignore[assignment]
        began = time.process_time()
        try:
            process.run_stage(run, "sampling")
        finally:
            sampling.open_engine = opens
        spent = time.process_time() - began
        summary = process.store_of(run).open("sampling", plan(run)["sampling"].fingerprint).summary
    return summary["tokens_per_second"], samples * TOKENS / spent


def _print_stage() -> None:
    wall, processor = stage_rates(SAMPLES)
    print(
        f"sampling stage, {SAMPLES:,} answers of {TOKENS} tokens: {wall:,.0f} tokens/s, {processor:,.0f} a second of the processor"
    )


def _pairs_per_second(workers: int, pairs: Sequence[tuple[str, str]]) -> float:
    """Pairs that `workers` workers, started before, compare in a second of real time."""
    symbolic.stop()
    symbolic.equal.cache_clear()
    most, symbolic.WORKERS = symbolic.WORKERS, workers  # type: ignore[misc]
    try:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda n: symbolic.equal(f"{n}+x", f"x+{n}"), range(4 * workers)))
            began = time.monotonic()
            list(threads.map(lambda pair: symbolic.equal(*pair), pairs))
            return len(pairs) / (time.monotonic() - began)
    finally:
        symbolic.WORKERS = most  # type: ignore[misc]
        symbolic.stop()


def _print_workers() -> None:
    """Pairs a second with one worker and with two, and how many of a run's samples need a comparison at all."""
    pairs = [(one, other) for one in EXPRESSIONS for other in EXPRESSIONS if one != other]
    rates = {workers: _pairs_per_second(workers, pairs) for workers in (1, 2)}
    print("math-verify, pairs/s by workers: " + ", ".join(f"{workers}: {rate:,.0f}" for workers, rate in rates.items()))
    # Eight samples of a question, as a teacher gives them: five right in two spellings, three wrong in two ways.
    asked = []
    for number in range(400):
        gold = f"\\frac{{{number + 1}\\sqrt{{{2 + number % 7}}}}}{{3}}"
        spelled = f"\\frac{{{number + 1}}}{{3}}\\sqrt{{{2 + number % 7}}}"
        wrong = [f"{number + 2}\\sqrt{{{3 + number % 7}}}", f"\\sqrt{{{number + 3}}}"]
        asked += [(answer, gold) for answer in (gold, gold, gold, spelled, spelled, wrong[0], wrong[0], wrong[1])]
    symbolic.equal.cache_clear()
    began = time.monotonic()
    with ThreadPoolExecutor(symbolic.WORKERS) as threads:
        list(threads.map(lambda one: grade(f"\\boxed{{{one[0]}}}", True, one[1], "math"), asked))
    seconds = time.monotonic() - began
    distinct = symbolic.equal.cache_info().currsize
    print(
        f"{len(asked):,} samples of 400 math questions: {distinct:,} distinct pairs compared, {len(asked) / seconds:,.0f} samples/s "
        f"with {symbolic.WORKERS} workers"
    )
    symbolic.stop()


def main() -> None:
    if sys.argv[1:] == ["--stage"]:
        _print_stage()
        return
    if sys.argv[1:] == ["--math"]:
        _print_workers()
        return
    for name, (kind, text, gold) in TEXTS.items():
        print(f"{name:24} {len(text(ITEMS - 1)):5} characters {_rate(kind, text, gold):10,.0f} grades/s")
    began = time.monotonic()
    symbolic.equal("1+x", "x+1")
    print(f"math-verify starts and decides its first pair in {time.monotonic() - began:.1f} s")
    worker = psutil.Process(symbolic._running[os.getpid()].every[0].pid)
    pairs = [(one, other) for one in EXPRESSIONS for other in EXPRESSIONS if one != other]
    before = sum(worker.cpu_times()[:2])
    for one, other in pairs:
        symbolic.equal(one, other)
    seconds = sum(worker.cpu_times()[:2]) - before
    print(
        f"{len(pairs)} pairs of different expressions: {1000 * seconds / len(pairs):.0f} ms each, {worker.memory_info().rss >> 20} MiB"
    )
    _print_workers()
    _print_stage()


if __name__ == "__main__":
    main()
