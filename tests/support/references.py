"""Small questions artifacts, and the references stage run on them with a random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.run import RunConfig
from stages.core.progress import Progress
from stages.questions import stage as questions
from stages.references import stage as references
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.runs import tree_of
from tests.support.synthetic_artifacts import question

PLACES = [("id", "dial", "test"), ("id", "dial-dev", "dev"), ("ood", "lift", "test")]


ITEMS = 5
"""Number of items per set."""


def write_questions(root: Path, first: int = 0) -> Artifact:
    """Two test sets, one dev set and one training question, in shards that end within a set."""
    tagged = [
        questions._Tagged(question(first + ITEMS * number + n), *place)
        for number, place in enumerate(PLACES)
        for n in range(ITEMS)
    ]
    tagged.append(questions._Tagged(question(first + 99), "train", "train", "train"))

    def write(draft: Draft) -> dict[str, Any]:
        for start in range(0, len(tagged), 4):
            draft.write_shard("questions", questions._table(tagged[start : start + 4]))
        return {"train": 1, "evaluation": dict.fromkeys(("dial", "dial-dev", "lift"), ITEMS)}

    return write_artifact(root, "questions", write)


def run_of(model: Path, per_shard: int = 4, **engine: Any) -> RunConfig:
    how = {"engine": {"kind": "transformers", "dtype": "float32", **engine}, "max_tokens": 2}
    return RunConfig.model_validate(tree_of(model) | {"evaluation": {**how, "items_per_shard": per_shard}})


def run_references(root: Path, run: RunConfig, read: Artifact, kept: Artifact | None = None) -> Artifact:
    """The stage's artifact; the base's and two of the teacher's answers of `kept` are already committed, as after a kill."""

    def write(draft: Draft) -> dict[str, Any]:
        if kept is not None:
            draft.write_shard("items", kept.table("items").slice(0, 10))
            draft.write_shard("items", kept.table("items").slice(10, 2))
        return references.run(references.config_of(run), {"questions": read}, draft, Progress(root / "progress", "references"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "references", write)
