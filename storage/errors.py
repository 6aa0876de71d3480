"""Exceptions of the artifact store: one root, and every message ends in the remedy.

`exit_code` is the exit code of a command that ends with the error: 2 for input that a person must correct, 1 otherwise. Every error
is built from its message alone, so all of them can be pickled.
"""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """Root of everything that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class BadRoot(StorageError, ValueError):
    """The artifact root cannot be used: malformed, unsupported or without a conditional put."""

    exit_code: ClassVar[int] = 2


class BadName(StorageError, ValueError):
    """Not the name of a run, or a name that is taken."""

    exit_code: ClassVar[int] = 2


class ArtifactError(StorageError):
    """An artifact is missing, incomplete or damaged."""


class ArtifactMissing(ArtifactError, ValueError):
    """An input artifact does not exist; its stage has to run first."""

    exit_code: ClassVar[int] = 2


class ArtifactBusy(ArtifactError, ValueError):
    """Another live process is writing this artifact."""

    exit_code: ClassVar[int] = 2


class RootNotWritable(ArtifactError, ValueError):
    """The artifact root cannot be written."""

    exit_code: ClassVar[int] = 2


class Damaged(ArtifactError):
    """A file's content differs from what was written."""


class DiskFull(ArtifactError, OSError):
    """No space is left under the artifact root."""


class RootUnavailable(ArtifactError, ConnectionError):
    """A remote artifact root does not answer."""


class LeaseLost(ArtifactError, RuntimeError):
    """Another process has taken over the lease and writes the artifact now."""


class UnstableIdentity(ArtifactError, TypeError):
    """A value without a stable identity would enter a fingerprint."""
