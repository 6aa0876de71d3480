"""The only door for patterns that a user writes: RE2 matches them.

Its time is linear in the text for any pattern, its memory is bounded, and it has no timeout, so every machine gives the same result.
Python's own `re` needs hours for some patterns of ten characters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2


@lru_cache(maxsize=256)
def compiled(pattern: str, flags: str = "") -> Any:
    """The compiled pattern, with flags such as `(?im)`.

    Raises:
        ValueError: not valid in RE2, with the reason.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(flags + pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(
            f"{pattern!r} is not a valid RE2 pattern; RE2 has no look-around and no back-references ({reason})"
        ) from error


def _before_last_newline(pattern: str, text: str) -> str:
    """Where `$` may match besides the end: RE2's matches at the end of a text alone, but a last newline is not meant to count."""
    return text.removesuffix("\n") if "$" in pattern else text


def captured(pattern: str, text: str) -> str | None:
    """What the pattern's group captures at its first match, or None."""
    found = compiled(pattern).search(_before_last_newline(pattern, text)) or compiled(pattern).search(text)
    return None if found is None else found[1]


def all_captured(pattern: str, text: str) -> tuple[str, ...]:
    """What the pattern's group captures at each match."""
    return tuple(compiled(pattern).findall(_before_last_newline(pattern, text)))
