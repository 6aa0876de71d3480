"""Where a turn of a conversation ends in a text: the marks that today's model families write around their turns.

A text is one turn of a model, its answer. What follows a mark that ends the turn, or that begins another one, was not written by this
answer. Marks with bars (`<|...|>`) are special tokens of a tokenizer, whatever they are called; those whose name says that a turn ends are
listed, and so are the marks of older families, which look like tags.
"""

from __future__ import annotations

import re
from typing import Final

_SPECIAL_TOKEN: Final = r"<[|｜][^<>|｜\s]{1,40}[|｜]>"
_NAMES: Final = r"im_end|eot|eot_id|eom_id|end|end_of_text|endoftext|end_of_turn|END_OF_TURN_TOKEN|return|eos|assistant_end"
_ENDS_A_TURN: Final = rf"<\|(?:{_NAMES})\|>|<｜end▁of▁sentence｜>|</s>|<eos>|<end_of_turn>|\[EOS\]"
_BEGINS_ANOTHER: Final = r"\[/?INST\]|<\|(?:im_start|start_header_id|user)\|>\s*(?:user|system)?"
_OVER: Final = re.compile(f"{_ENDS_A_TURN}|{_BEGINS_ANOTHER}")
_OPENING: Final = re.compile(
    r"\s*(?:<\|(?:im_start|start_header_id|start|assistant)\|>|<start_of_turn>|<s>|<bos>)\s*(?:assistant|model)?\s*(?:<\|end_header_id\|>)?\s*"
)
_AT_THE_END: Final = re.compile(rf"(?:\s*(?:{_ENDS_A_TURN}|{_SPECIAL_TOKEN}))+\s*\Z")
_INSIDE: Final = re.compile(_SPECIAL_TOKEN)


def one_turn(text: str) -> str:
    """The first turn of a text, without the marks around it."""
    if "<" not in text and "[" not in text:
        return text
    opening = _OPENING.match(text)
    text = text[opening.end() :] if opening else text
    over = _OVER.search(text)
    return text[: over.start()] if over and text[: over.start()].strip() else text


def without_end_marks(text: str) -> str:
    """The text without the marks and special tokens at its end."""
    return _AT_THE_END.sub("", text)


def special_token(text: str) -> str | None:
    """The first special token of a text, whatever it marks; `None` if there is none."""
    found = _INSIDE.search(text)
    return found[0] if found else None
