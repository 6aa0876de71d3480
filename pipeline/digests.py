"""128-bit text digests: set membership for millions of texts without keeping them in memory.

At 128 bits an accidental collision is practically impossible, and a Python integer of this size takes hardly more memory than one of 64
bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest(text: str) -> int:
    """128-bit digest of one text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


def digests(texts: Iterable[str]) -> set[int]:
    """The digests of several texts."""
    return {digest(text) for text in texts}
