"""Runs the stages of many runs in one process: `python -m stages.experiments.worker --config FILE --runs RUNS.json`.

RUNS.json is a list of lists of assignments, one per run, each in the form that `--set` takes. Starting torch, transformers and DeepSpeed
takes longer than training a miniature student, so one worker processes all runs. Any number of workers may process the same list, on this
machine or on others that share the root: a worker skips finished artifacts and artifacts that another worker is writing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.config.run import RunConfig, load_config
from pipeline.errors import MindError
from stages.core.plan import ORDER, plan
from stages.core.process import run_stage, store_of
from stages.core.progress import Progress
from storage.errors import ArtifactBusy, StorageError

STAGES: Final = tuple(name for name in ORDER if name != "report")
_LOOK_AGAIN_SECONDS: Final = 2.0


def _missing(run: RunConfig) -> list[str]:
    """The stages of a run whose artifacts do not exist."""
    store, planned = store_of(run), plan(run)
    return [name for name in STAGES if not store.exists(name, planned[name].fingerprint)]


def process_runs(runs: Sequence[RunConfig], progress: Progress) -> list[str]:
    """Process every run in turn; returns the names of failed runs, whose errors are printed on standard error.

    Runs that another worker is busy with are checked again after the others, so in the end every run is done or failed.
    """
    failed: list[str] = []
    waiting = [run for run in runs if _missing(run)]
    progress.start("runs", len(runs), "runs", len(runs) - len(waiting))
    while waiting:
        busy: list[RunConfig] = []
        for run in waiting:
            try:
                for name in _missing(run):
                    run_stage(run, name)
            except ArtifactBusy:
                busy.append(run)
                continue
            except (MindError, StorageError) as error:
                print(f"mind: {run.name}: {error}", file=sys.stderr)
                failed.append(run.name)
            # Runs finished by other workers count too: the remaining time is that of all workers together.
            still = [other for other in busy if _missing(other)]
            progress.advance(1 + len(busy) - len(still), run.name)
            busy = still
        if len(busy) == len(waiting):
            time.sleep(_LOOK_AGAIN_SECONDS)
        waiting = busy
    return failed


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.experiments.worker")
    parser.add_argument("--config", type=Path, required=True, help="the runs' common YAML file")
    parser.add_argument("--runs", type=Path, required=True, help="a JSON file: a list of KEY=VALUE for each run")
    parser.add_argument("--progress", type=Path, required=True, help="the file to write progress to")
    arguments = parser.parse_args()
    try:
        runs = [load_config(arguments.config, tuple(changes)) for changes in json.loads(arguments.runs.read_text())]
        failed = process_runs(runs, Progress(arguments.progress, "series"))
    except (MindError, StorageError) as error:
        print(f"mind: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if failed:
        print(f"mind: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; run again to resume", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
