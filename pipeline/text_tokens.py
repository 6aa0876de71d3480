"""Tokenises data: a text never becomes a control token, whatever it says.

A question or rationale may contain the characters of a special token, such as `<|end|>` or `</s>`, by accident or on purpose. Tokenised
as usual, they would end the student's turn in the middle of a rationale, or open another turn inside a question. So a text is cut after
the first character of each such mark, and its pieces are tokenised one by one: every character stays, and no piece contains a mark. A
text without marks, hence nearly every text, is tokenised as usual. Control tokens come only from the tokenizer and from the model's chat
template; only the marks of a rationale's own thought, which belong to its form, are its tokenizer's if it has them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextTokens(NamedTuple):
    """Token ids of a text, and for each the range of characters that it stands for."""

    ids: list[int]
    ranges: list[tuple[int, int]]


@lru_cache(maxsize=16)
def _marks(tokenizer: PreTrainedTokenizerBase, kept: tuple[str, ...]) -> re.Pattern[str] | None:
    """Matches every special token of more than one character except the `kept` ones, the longest first; None if there is none."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} - {*kept}
    # A single character cannot be cut; it stays what the tokenizer makes of it.
    marks = sorted((mark for mark in special if len(mark) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, marks))) if marks else None


def without_marks(tokenizer: PreTrainedTokenizerBase, text: str, kept: tuple[str, ...] = ()) -> list[str]:
    """The text in pieces that contain no special token but the `kept` ones; one piece for a text without."""
    marks = _marks(tokenizer, kept)
    pieces, start = [], 0
    while marks is not None and (found := marks.search(text, start)):
        pieces.append(text[start : found.start() + 1])
        start = found.start() + 1
    return [*pieces, text[start:]]


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str, kept: tuple[str, ...] = ()) -> TextTokens:
    """Tokens of a text, without special tokens but the `kept` ones."""
    ids: list[int] = []
    ranges: list[tuple[int, int]] = []
    start = 0
    for piece in without_marks(tokenizer, text, kept):
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded["input_ids"]
        ranges += [(start + first, start + last) for first, last in encoded["offset_mapping"]]
        start += len(piece)
    return TextTokens(ids, ranges)
