"""Runs several short trainings in one process, as the experiment's worker does; a JSON file describes them.

A training with `fail` stops after that step and is then resumed. `most` is the number of logits computed at once.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.student.token_losses import StudentLosses
from stages.core.progress import Progress
from stages.training import rank
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.store import open_store


class InjectedFailure(Exception):
    """Stops a training that is resumed afterwards."""


def train_and_resume(config: Config, folder: Path, read: Artifact, fail: int | None, most: int) -> None:
    rank.StudentLosses = partial(StudentLosses, most=most)  # type: ignore[assignment,misc]
    draft, scratch, progress = folder / "draft", folder / "scratch", Progress(folder / "progress", "training")
    for made in (draft, scratch):
        made.mkdir(parents=True)
    if fail is not None:
        step_of = rank.train_step

        def failing_step(joint: Any, step: int) -> dict[str, Any]:
            if step > fail:
                raise InjectedFailure
            return step_of(joint, step)

        rank.train_step = failing_step
        try:
            rank.train(config, read, draft, scratch, progress)
        except InjectedFailure:
            rank.train_step = step_of
    rank.train(config, read, draft, scratch, progress)


def main(spec: Path) -> None:
    for number, item in enumerate(json.loads(spec.read_text())):
        config = Config.model_validate(item["config"])
        if not number:
            rank.join(config.training)
        synthesis = Path(item["synthesis"])
        read = open_store(str(synthesis.parents[1])).open("synthesis", synthesis.name)
        train_and_resume(config, Path(item["folder"]), read, item["fail"], item["most"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
