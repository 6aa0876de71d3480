"""Thoughts of thinking models, by whatever marks their model family writes around them.

All marks are read as `<think>` and `</think>`; the rest of the product knows only these. Thoughts do not nest: the last end ends whatever
was begun, and an end without a start ends a thought that the prompt began. A thought that never ends is no part of what a text says, so an
answer in it is no answer. Where the prompt began the thought, the engine's text has its mark (`pipeline/model_thoughts.py`).
"""

from __future__ import annotations

import re
from typing import Final

START: Final = "<think>"
END: Final = "</think>"
_WORDS: Final = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think"
_STARTS: Final = re.compile(
    rf"<(?:{_WORDS})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>(?:analysis|commentary)<\|message\|>"
)
_ENDS: Final = re.compile(
    rf"</(?:{_WORDS})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
)
"""The last one is that of gpt-oss, whose answer is a channel of its own."""
_BEGINNINGS: Final = ("<", "[", "◁")


def with_think_marks(text: str) -> str:
    """The text with every mark of a thought's start or end as `<think>` or `</think>`."""
    if not any(sign in text for sign in _BEGINNINGS):
        return text
    return _ENDS.sub(END, _STARTS.sub(START, text))


def without_open_thought(text: str) -> str:
    """The text, with the marks of `with_think_marks`, before a thought that never ends."""
    text = with_think_marks(text)
    begun = text.find(START, text.rfind(END) + 1)
    return text if begun < 0 else text[:begun]


def behind_thoughts(text: str) -> str:
    """What a text says behind its last thought."""
    return without_open_thought(text).rpartition(END)[2]
