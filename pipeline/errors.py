"""The exception hierarchy of MIND: one root class; every message ends with the remedy.

`exit_code` is the exit status of the command line: 2 for input that the user must correct, 1 for a failed stage. Every exception is
constructed from its message alone, so all of them can be pickled.
"""

from __future__ import annotations

from typing import ClassVar


class MindError(Exception):
    """Root of all exceptions that MIND raises deliberately."""

    exit_code: ClassVar[int] = 1


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
