"""Selects the runs that the latent analysis reads, and runs it in its own process. Trains nothing; needs no server."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

from flows.experiments.compare_arms import ArmRun, Experiment, chosen_arms, folder_of, runs_of
from flows.stage_process import watch
from flows.terminal_progress import watching
from pipeline.baselines_and_ablations import SPECIALIST
from stages.core.process import store_of
from storage.atomic import write_bytes, writing
from storage.errors import ArtifactMissing

MODELS: Final = ("mind", "uniform")
IF_THERE: Final = ("mind+",)


def _is_done(run: ArmRun) -> bool:
    return store_of(run.config).exists("training", run.planned["training"].fingerprint)


def runs_for(experiment: Experiment, seed: int) -> list[ArmRun]:
    """The runs of a seed that the analysis reads.

    Raises:
        ArtifactMissing: some runs have no trained student; the message has the command that trains them.
    """
    names = [arm.name for arm in chosen_arms(experiment)]
    wanted = tuple(name for name in names if name in (*MODELS, *IF_THERE) or name.startswith(SPECIALIST))
    every = runs_of(experiment.model_copy(update={"arms": wanted, "seeds": seed + 1}))
    mine = [run for run in every if run.seed == seed]
    done = [run for run in mine if _is_done(run)]
    missing = [run.arm.name for run in mine if run not in done and run.arm.name not in IF_THERE]
    if missing:
        raise ArtifactMissing(
            f"latent: {len(missing)} of {len(mine)} arms have no trained student with seed {seed}: {', '.join(missing)}; "
            f"train them with: {_command(experiment, missing, seed)}"
        )
    return done


def _command(experiment: Experiment, names: Sequence[str], seed: int) -> str:
    changes = [word for change in experiment.changes for word in ("--set", change)]
    options = ["--arms", ",".join(names), "--seeds", str(seed + 1), "--use", experiment.use]
    return shlex.join(["mind", "bench", "science", experiment.config, *changes, *options])


def latent(experiment: Experiment, seed: int, questions: int, quiet: bool = False) -> dict[str, Any]:
    """Run the latent analysis in its own process; returns the figures. With `quiet`, no progress is shown.

    Raises:
        ArtifactMissing: as `runs_for`.
    """
    runs, folder = runs_for(experiment, seed), folder_of(experiment)
    listed, progress = folder / "latent.runs.json", folder / "latent.progress"
    with writing(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(listed, json.dumps({run.arm.name: run.assignments for run in runs}).encode())
    arguments = [
        "--config", experiment.config, "--runs", str(listed), "--folder", str(folder), "--progress", str(progress),
        "--questions", str(questions), "--seed", str(seed),
    ]  # fmt: skip
    with nullcontext(lambda found: None) if quiet else watching("latent") as show:
        watch("experiments.latent.analysis", arguments, folder / "latent.log", progress, show)
    progress.unlink(missing_ok=True)
    found: dict[str, Any] = json.loads((folder / "latent.json").read_bytes())
    return found
