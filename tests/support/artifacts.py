"""Small artifacts of a stage, written as a stage's process writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.core.summaries import Summary
from storage.artifact import Artifact, Draft
from storage.store import open_store
from tests.support.summaries import complete

FINGERPRINT = "0" * 16


def write_artifact(root: Path, stage: str, write: Callable[[Draft], Summary | dict[str, Any]]) -> Artifact:
    """Commits the draft that `write` fills, with the summary that it returns."""
    store = open_store(str(root))
    with store.draft(stage, FINGERPRINT) as draft:
        return store.commit(draft, {"summary": complete(stage, write(draft))})
