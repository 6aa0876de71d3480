"""math-verify in a worker process: its decisions, its time and memory limits, and recovery after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.errors import GradingError
from pipeline.grading import symbolic
from pipeline.grading.grade import KILLED, Outcome, grade
from tests.support.runs import REPOSITORY

HOSTILE = ("10^{10^{10}}", r"\binom{10^9}{5\cdot 10^8}", "(x+1)^{100000}", r"\sum_{n=1}^{10^9} n^n", "2^{2^{2^{2^{2^{2}}}}}")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits each comparison to one CPU second, with a fresh worker per test."""
    symbolic.stop()
    symbolic.equal.cache_clear()
    monkeypatch.setattr(symbolic, "CPU_SECONDS", 1.0)
    yield
    symbolic.stop()
    symbolic.equal.cache_clear()


def _worker() -> int:
    return symbolic._running[os.getpid()].every[0].pid


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_comparison_over_its_time_limit_is_unparsed(answer: str) -> None:
    assert grade(f"\\boxed{{{answer}}}", True, "x+1", "math") == (Outcome.UNPARSED, None, KILLED)
    assert grade("\\boxed{1+x}", True, "x+1", "math").outcome is Outcome.CORRECT


def test_a_gold_answer_over_the_time_limit_is_unparsed() -> None:
    assert grade("\\boxed{x+2}", True, "10^{10^{10}}", "math") == (Outcome.UNPARSED, None, KILLED)


def test_a_comparison_over_its_memory_limit_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "CPU_SECONDS", 60.0)
    monkeypatch.setattr(symbolic, "BYTES", 1 << 20)
    assert symbolic.equal("10^{10^{10}}", "x+1") is None


def test_a_killed_comparison_is_not_repeated() -> None:
    assert symbolic.equal(HOSTILE[0], "x+1") is None
    assert symbolic.equal(HOSTILE[0], "x+1") is None
    assert not symbolic._running[os.getpid()].every


def test_comparisons_share_one_worker_process() -> None:
    assert symbolic.equal("1+x", "x+1") is True
    first = _worker()
    assert symbolic.equal("2+x", "x+1") is False
    assert _worker() == first


def test_threads_share_workers_and_get_the_answers_to_their_own_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "WORKERS", 2)
    pairs = [(f"{n}+x", f"x+{n + n % 2}") for n in range(24)]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda pair: symbolic.equal(*pair), pairs))
    assert found == [n % 2 == 0 for n in range(24)]
    workers = symbolic._running[os.getpid()]
    assert 1 <= len(workers.every) <= 2
    assert sorted(worker.pid for worker in workers.idle) == sorted(worker.pid for worker in workers.every)


def test_all_workers_killed_from_outside_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "WORKERS", 2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda n: symbolic.equal(f"{n}+x", f"x+{n}"), range(6)))
    for worker in symbolic._running[os.getpid()].every:
        worker.kill()
        worker.wait()
    assert symbolic.equal("7+x", "x+7") is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("2^{-95}", "2^{-90}"), ("x\\cdot 2^{-95}", "x\\cdot 2^{-90}"), ("10^{-12}", "0"), ("10^{30}+1+x", "10^{30}\\cdot 2+x")],
)
def test_a_difference_counts_relative_to_its_size(answer: str, gold: str) -> None:
    assert symbolic.equal(answer, gold) is False


def test_a_worker_killed_from_outside_is_replaced() -> None:
    assert symbolic.equal("1+x", "x+1") is True
    first = _worker()
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=60)
    assert symbolic.equal("2+x", "x+2") is True
    assert _worker() != first


def test_grading_works_in_any_thread_and_keeps_the_sigalrm_handler() -> None:
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.set())
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    found: list[Outcome] = []
    graders = [
        threading.Thread(target=lambda n=n: found.append(grade(f"\\boxed{{{n}+x}}", True, f"x+{n}", "math").outcome))
        for n in range(3)
    ]
    try:
        for grader in graders:
            grader.start()
        for grader in graders:
            grader.join()
        deadline = time.monotonic() + 5
        while not rung.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == [Outcome.CORRECT] * 3
    assert rung.is_set()


def test_a_forked_process_starts_its_own_worker() -> None:
    assert symbolic.equal("1+x", "x+1") is True
    child = os.fork()
    if child == 0:
        os._exit(0 if symbolic.equal("3+x", "x+3") is True and len(symbolic._running) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert symbolic.equal("4+x", "x+4") is True


@pytest.mark.parametrize("answer", ["1+x", HOSTILE[0]])
def test_no_worker_outlives_the_asking_process(answer: str) -> None:
    """The asking process gets SIGKILL while its worker is idle or busy."""
    code = (
        "import sys, threading\nfrom pipeline.grading import symbolic\nsymbolic.equal('1+x', 'x+1')\n"
        "print(symbolic._mine().every[0].pid, flush=True)\nsymbolic.equal(sys.argv[1], 'x+2')\nthreading.Event().wait()"
    )
    asker = subprocess.Popen([sys.executable, "-c", code, answer], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert asker.stdout is not None
    worker = psutil.Process(int(asker.stdout.readline()))
    time.sleep(0.3)
    asker.kill()
    asker.wait()
    asker.stdout.close()
    gone, _ = psutil.wait_procs([worker], timeout=60)
    assert gone


def test_a_worker_that_does_not_start_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("import math_verify_that_is_not_there")
    monkeypatch.setattr(symbolic, "_WORKER", broken)
    with pytest.raises(GradingError, match=r"math-verify does not start \(exit code 1\); pip install"):
        grade("\\boxed{1+x}", True, "x+1", "math")


def test_numbers_words_and_equal_texts_need_no_worker() -> None:
    for answer, gold in [
        ("\\frac{1}{2}", "0.5"),
        ("7", "8"),
        ("x + 1", "x+1"),
        ("\\text{odd number}", "\\text{even number}"),
        ("10_2", "10_3"),
    ]:
        grade(f"\\boxed{{{answer}}}", True, gold, "math")
    assert not symbolic._running
