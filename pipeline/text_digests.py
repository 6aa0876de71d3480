"""Digests of texts: for set membership without keeping the texts in memory, and for seeds.

At 128 bits an accidental collision is practically impossible, and a Python integer of this size takes hardly more memory than one of 64
bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def digest(text: str) -> int:
    """128-bit digest of one text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


def seed_of(*parts: str | int) -> int:
    """A 31-bit seed from everything that tells one sample from another, the same on every machine; parts contain no NUL."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


def digests(texts: Iterable[str]) -> set[int]:
    """The digests of several texts."""
    return {digest(text) for text in texts}
