"""Thoughts of thinking models, by whatever marks their model family writes around them.

All marks are read as `<think>` and `</think>`; the rest of the product knows only these. A mark that a text does not close, or did not open
because its prompt did, is read like any other.
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
_KEYS: Final = ("</", "[/THINK", "◁", "<|")


def with_think_marks(text: str) -> str:
    """The text with every mark of a thought's start or end as `<think>` or `</think>`."""
    if not any(key in text for key in _KEYS) or not _ENDS.search(text):
        return text
    return _ENDS.sub(END, _STARTS.sub(START, text))


def behind_thoughts(text: str) -> str:
    """What a text says behind its last thought."""
    return with_think_marks(text).rpartition(END)[2]
