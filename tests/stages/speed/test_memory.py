"""Memory measurements count only what the work adds to its own process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages.speed import memory
from tests.support.runs import REPOSITORY

MIB = 1 << 20


def test_memory_of_the_parent_process_does_not_count() -> None:
    large = b"\1" * (400 * MIB)
    code = "from stages.speed.memory import grown; print(grown(lambda: b'\\1' * (100 << 20)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert int(found) / 1024 == pytest.approx(100, abs=10)
    assert len(large) == 400 * MIB


def test_memory_freed_before_the_work_does_not_count() -> None:
    code = "from stages.speed.memory import grown; b'\\1' * (300 << 20); print(grown(lambda: b'\\1' * (100 << 20)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert int(found) / 1024 == pytest.approx(100, abs=10)


def test_memory_of_the_consistency_term_counts() -> None:
    def added(terms: str) -> int:  # in a process of its own: another test's freed memory would be used again
        code = f"from stages.speed.memory import added; print(added('chunked', {terms!r}, tokens=128))"
        return int(
            subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
        )

    alone, with_term = map(added, ("L_SFT", "with-L_cons"))
    logits = 64 * memory.VOCABULARY * 4 / 1024
    assert alone > 0
    assert with_term - alone > logits
