"""Measures whether a text ends in a loop: the same words again and again, until the limit of tokens.

The measure is the share of repeated n-grams at the end of a text: of all runs of eight words and symbols in its last 128, those that
occurred before in the same 128; then the same of its last 1,024, for loops of whole paragraphs; the larger counts. A number counts as the
same as any other, because loops often count on ("12. The answer is 12. 13. The answer is 12.").

Our choices, set on texts of a kind that is distilled: none of the 8,064 recorded rationales of a large model exceeds 0.57, while 82 % of
the answers that SmolLM2-135M did not end within 256 tokens exceed 0.6.
"""

from __future__ import annotations

import re
from typing import Final

_RUN: Final = 8
_ENDS: Final = (128, 1024)
_CHARACTERS: Final = 16_384
"""Characters that are looked at; the last 1,024 words and symbols mostly have fewer."""
_WORD: Final = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s]|_")
LOOPING: Final = 0.6
"""A text that did not end and whose share is larger is looping."""


def repetition(text: str) -> float:
    """Share of repeated n-grams at the end of a text, from 0 to 1; 0 for short ones."""
    words = ["0" if word[0].isdigit() else word for word in _WORD.findall(text[-_CHARACTERS:])]
    return max(_repeated(words[-end:]) for end in _ENDS)


def _repeated(words: list[str]) -> float:
    runs = [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
    return 1 - len({*runs}) / len(runs) if len(runs) >= _RUN else 0.0
