"""The exception hierarchy of MIND: one root class; every message ends with the remedy.

`exit_code` is the exit status of the command line: 2 for input that the user must correct, 1 for a failed stage. Every exception is
constructed from its message alone, so all of them can be pickled. Messages quote what somebody has written, so two things are done here for
all of them: passwords and keys in addresses are replaced, whoever made the message, and a quoted value is shown short (`shown`).
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, ClassVar, Final

_USER: Final = re.compile(r"(?<=://)(?:[^\s/@:]{0,200}:\S{0,500}|[^\s/@]{0,200})@")
"""User and password. All up to the last @, if there is a colon: a password that is not encoded may contain a slash or an @."""
_ANY_USER: Final = re.compile(r"(?s)(?:(?<=://).*|(?<![^=])(?!\S*://)[^\s=:]*:\S*)@")
"""The same in a value that is nothing but an address: its password may contain anything, and its scheme may be missing."""
SECRET_KEY: Final = r"(?i:[\w%.-]{0,60}(?:key|token|secret|passw|pwd|credential|signature|auth)[\w%.-]{0,60}|sig|sas)"
"""Names of query keys whose value is a secret."""
_QUERY: Final = re.compile(rf"([?&;#]{SECRET_KEY}=)[^&;#\s'\"]+")
_SHOWN: Final = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlong = 40
_SHOWN.maxlevel = 3


def redacted(text: str) -> str:
    """The text without the user, password and keys of addresses in it."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def shown(value: Any) -> str:
    """A value as an error quotes it: a text as it is, anything else as Python writes it, both cut in the middle where they are long, and
    without the secrets of addresses."""
    text = value if isinstance(value, str) else _SHOWN.repr(value)
    text = redacted(_ANY_USER.sub("***@", text) if "@" in text and isinstance(value, str) else text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


class MindError(Exception):
    """Root of all exceptions that MIND raises deliberately."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class BadInput(MindError, ValueError):
    """Unusable input from the user; the message names file, field or row, the expected value and the remedy."""

    exit_code: ClassVar[int] = 2


class ConfigError(BadInput):
    """The run's configuration is invalid."""


class QuestionError(BadInput):
    """A row or file of questions or rationales is invalid."""


class ModelError(BadInput):
    """A model or tokenizer is unusable."""


class NothingSurvives(BadInput):
    """Filtering left no training data."""


class EngineError(MindError, RuntimeError):
    """A generation engine failed."""


class EngineRefused(EngineError, BadInput):
    """A server permanently rejects a request: key, model or parameters."""

    exit_code: ClassVar[int] = 2


class PromptTooLong(EngineRefused):
    """A server reports that prompt and completion exceed its context length."""


class GradingError(MindError, RuntimeError):
    """Answers cannot be compared because the comparison process does not work."""


class StageFailed(MindError, RuntimeError):
    """A stage's process failed."""


class ServerEnded(MindError, RuntimeError):
    """The Prefect server of a command did not start, or ended before the command."""
