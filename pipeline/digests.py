"""Numbers that stand for texts, where millions of texts must be told apart and none of them held.

128 bits: two different texts never meet by chance, and Python keeps such a number in the room of one of 64 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest(text: str) -> int:
    """The number of one text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


def digests(texts: Iterable[str]) -> set[int]:
    """The numbers of many."""
    return {digest(text) for text in texts}
