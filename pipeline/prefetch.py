"""Splits streams into chunks and processes them with bounded prefetch; memory use does not depend on the stream's length."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT: Final = 2
"""Number of items that `prefetch` processes concurrently."""


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in order; the last list may be shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def prefetch(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yields each item with the result of `work`, in order, while the next item is already processed in a thread.

    The last requests of a chunk leave most of an engine idle, and so do grading and writing; the requests of the next chunk fill this gap.
    A consumer that stops early, for example because the disk is full, does not wait for running work: closing the engine ends it.
    """
    stream, pool = iter(items), ThreadPoolExecutor(IN_FLIGHT)
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    try:
        under_way.extend((item, pool.submit(work, item)) for item in islice(stream, IN_FLIGHT))
        while under_way:
            item, future = under_way.popleft()
            yield item, future.result()
            under_way.extend((other, pool.submit(work, other)) for other in islice(stream, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
