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
"""Pieces that are worked on at once by `ahead`."""


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in order, the last one perhaps shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Every item with what `work` makes of it, in order, while the next one is already worked on in a thread.

    An engine's last requests of one piece leave most of it idle, and so do grading and writing; the next piece's requests fill that.
    Whoever leaves early, with a full disk for example, does not wait for what is under way: closing the engine ends it.
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
