"""The exception hierarchy of MIND: one root class; every message ends with the remedy.

`exit_code` is the exit status of the command line: 2 for input that the user must correct, 1 for a failed stage. Every exception is
constructed from its message alone, so all of them can be pickled.
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


class ArtifactError(MindError):
    """An artifact is missing, incomplete or damaged."""


class ArtifactMissing(ArtifactError, BadInput):
    """A stage was asked to run before the stages it reads from."""

    exit_code: ClassVar[int] = 2


class ArtifactBusy(ArtifactError, BadInput):
    """Another live process is writing this artifact."""

    exit_code: ClassVar[int] = 2


class RootNotWritable(ArtifactError, BadInput):
    """The artifact root cannot be written."""

    exit_code: ClassVar[int] = 2


class Damaged(ArtifactError):
    """A file does not hold what was written."""


class DiskFull(ArtifactError, OSError):
    """The disk under the artifact root is full."""


class RootUnavailable(ArtifactError, ConnectionError):
    """A remote artifact root does not answer."""


class LeaseLost(ArtifactError, RuntimeError):
    """Another process took this one for dead and writes its artifact now."""


class UnstableIdentity(ArtifactError, TypeError):
    """A value without a stable identity was put into a fingerprint."""


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
