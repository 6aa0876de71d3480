"""The exceptions of MIND: one root, and every message ends in the remedy.

`exit_code` is what the command line returns: 2 for input that a person must mend, 1 for a stage that failed.
Every error is built from its message alone, so all of them pickle.
"""

from __future__ import annotations

from typing import ClassVar


class MindError(Exception):
    """Root of everything that MIND raises on purpose."""

    exit_code: ClassVar[int] = 1


class BadInput(MindError, ValueError):
    """Something a person wrote or provided cannot be used: file, field or row, what was expected, the remedy."""

    exit_code: ClassVar[int] = 2


class ConfigError(BadInput):
    """The run's configuration."""


class QuestionError(BadInput):
    """A row or file of questions."""


class ModelError(BadInput):
    """A model or tokenizer folder."""


class NothingSurvives(BadInput):
    """Filtering left nothing to train on."""


class EngineError(MindError, RuntimeError):
    """A generation engine failed."""


class EngineRefused(EngineError, BadInput):
    """A server refuses what it is asked: the key, the model, the request."""

    exit_code: ClassVar[int] = 2


class PromptTooLong(EngineRefused):
    """A server says that a prompt with its answer is more than its context holds."""


class GradingError(MindError, RuntimeError):
    """Answers cannot be compared."""


class StageFailed(MindError, RuntimeError):
    """A stage's process ended badly."""
