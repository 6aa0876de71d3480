"""A stream in pieces: what is held at once is one piece, however long the stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in order, the last one perhaps shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
