from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prefetch import IN_FLIGHT, chunks, prefetch


@given(st.lists(st.integers()), st.integers(1, 7))
def test_concatenated_chunks_equal_the_stream(items: list[int], size: int) -> None:
    pieces = list(chunks(items, size))
    assert [item for piece in pieces for item in piece] == items
    assert all(len(piece) == size for piece in pieces[:-1])


@given(st.lists(st.integers(), max_size=12))
def test_prefetch_keeps_the_order_and_pairs_items_with_results(items: list[int]) -> None:
    assert list(prefetch(lambda item: item * 2, items)) == [(item, item * 2) for item in items]


def test_prefetch_works_ahead_within_its_limit() -> None:
    begun, taken = threading.Semaphore(0), []

    def stream() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        begun.release()
        return number

    for number, _ in prefetch(work, stream()):
        if number < 5:
            assert begun.acquire(timeout=60) and begun.acquire(timeout=60)  # its own, and the next one's
            begun.release()
        assert len(taken) <= number + IN_FLIGHT


def test_leaving_prefetch_early_does_not_wait_for_running_work() -> None:
    release, began = threading.Event(), time.monotonic()
    try:
        for number, _ in prefetch(lambda item: item == 0 or release.wait(60), range(9)):
            assert number == 0
            break
        assert time.monotonic() - began < 30
    finally:
        release.set()


def test_prefetch_raises_a_failure_and_starts_no_more_work() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ValueError("one")
        time.sleep(0.01)
        return number

    with pytest.raises(ValueError, match="one"):
        list(prefetch(work, range(9)))
    assert set(begun) <= {0, 1, 2}
