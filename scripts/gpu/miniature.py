"""The miniature distillation, stage by stage as processes, with the transformers engine: per cent right, beside a CPU's.

`--more` is the precision. Fewer questions than in `make demo`, since this engine is slow; `expected.json` holds the accuracies of the same
call on a CPU in fp32. A card may differ by chance, because sampled texts differ: by more than 4 standard errors it is not chance.

Then training is repeated for a few steps: as it is, once more, and killed at its first checkpoint and resumed. A card's sums have no fixed
order, so two trainings that nobody touches differ as well; the resumed one may differ at most four times as much.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow.parquet as pq
import yaml

from pipeline.config.run import load_config
from scripts.gpu.part import Options, attempt, options, report
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.summaries import EvaluationSummary
from stages.training.checkpoint import VALID_CHECKPOINT

HOME: Final = Path(__file__).parents[2]
STAGES: Final = ("questions", "references", "sampling", "synthesis", "training", "evaluation")
EXPECTED: Final = Path(__file__).with_name("expected.json")
TRAIN: Final = ("dial", "belt")
SETS: Final = ("dial", "belt", "lift")
"""Families to train on, and sets to evaluate on: two in distribution and one out of it. Every length of a prompt is a batch of its own."""
STEPS: Final = 12
"""Steps of the training that is killed and resumed."""
SMALL_DIFFERENCE: Final = 1e-5
"""Relative difference of losses that is always allowed on a card; on a CPU they are equal."""
DTYPES: Final = {"bf16": "bfloat16", "fp32": "float32"}


def write_config(given: Options, changes: dict[str, Any]) -> Path:
    """The miniature's configuration for one process and this engine, in the part's folder; `changes` are those of its training."""
    tree = yaml.safe_load((HOME / "configs" / "miniature.yaml").read_text())
    train, evaluated, steps = (4, 3, 3) if given.tiny else (60, 80, 120)
    for role in ("teacher", "student"):
        tree[role]["path"] = str(HOME / "pipeline" / "miniature" / "models" / role)
    tree["root"] = str(given.folder / "artifacts")
    tree["questions"]["train"] = [item | {"count": train} for item in tree["questions"]["train"] if item["family"] in TRAIN]
    tree["questions"]["evaluation"] = [
        item | {"source": item["source"] | {"count": evaluated}}
        for item in tree["questions"]["evaluation"]
        if item["name"] in SETS
    ]
    engine = {"kind": "transformers", "dtype": DTYPES[given.more], "max_context": 512, "batch": 256}
    for stage in ("sampling", "synthesis", "evaluation"):
        tree[stage]["engine"] = engine
    tree["sampling"] |= {"questions_per_shard": 512}
    tree["training"] |= {"steps": steps, "ranks": 1, "zero_stage": 1, "precision": given.more, **changes}
    tree["evaluation"]["max_tokens"] = 160
    if given.tiny:
        tree["training"] |= {"questions_per_step": 4, "questions_per_micro_batch": 2}
        tree["synthesis"]["max_tokens"] = tree["evaluation"]["max_tokens"] = 40
    path = given.folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run_stage(name: str, config: Path, *more: str) -> None:
    """Run a stage as a process; its output is log."""
    command = [sys.executable, "-m", f"stages.{name}", "--config", str(config), *more]
    done = subprocess.run(command, cwd=HOME, env=os.environ, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def _accuracies(config: Path) -> dict[str, tuple[int, int]]:
    """Numbers of right answers and of items, by group and model."""
    run = load_config(config, ())
    artifact = store_of(run).open("evaluation", plan(run)["evaluation"].fingerprint)
    accuracy = EvaluationSummary.of(artifact).accuracy
    return {
        f"{group} {model}": (accuracy[model][f"group:{group}"].correct, accuracy[model][f"group:{group}"].items)
        for group in ("id", "ood")
        for model in ("base", "student", "teacher")
    }


def _training(config: Path) -> Path:
    """The folder of a configuration's training artifact."""
    run = load_config(config, ())
    return store_of(run).root / "training" / plan(run)["training"].fingerprint


def _kill_at_first_checkpoint(config: Path) -> None:
    """Start training, and kill it with all its processes once it has a checkpoint."""
    checkpoint = _training(config).with_suffix(".scratch") / VALID_CHECKPOINT
    command = [sys.executable, "-m", "stages.training", "--config", str(config)]
    process = subprocess.Popen(command, cwd=HOME, stdout=sys.stderr)
    while process.poll() is None:
        if checkpoint.exists():
            # torch's launcher starts ranks in sessions of their own.
            whole = psutil.Process(process.pid)
            for member in (*whole.children(recursive=True), whole):
                member.kill()
            process.wait()
            return
        time.sleep(0.01)
    raise RuntimeError("training ended before it could be killed")


def _kill_and_resume(given: Options) -> None:
    config = write_config(given, {"steps": STEPS, "checkpoint_every": STEPS // 4})
    runs = []
    for kill in (False, False, True):
        if kill:
            _kill_at_first_checkpoint(config)
        run_stage("training", config)
        folder = _training(config)
        runs.append([loss for path in sorted(folder.glob("steps-*")) for loss in pq.read_table(path)["loss"].to_pylist()])
        shutil.rmtree(folder)
    noise, off = (max(abs(a - b) / abs(b) for a, b in zip(losses, runs[0], strict=True)) for losses in runs[1:])
    report("killed and resumed", off <= (max(4 * noise, SMALL_DIFFERENCE) if given.cuda else 0.0), off=off, noise=noise)


def main() -> None:
    """Run the stages, compare the accuracies, kill and resume."""
    given = options()
    config = write_config(given, {})
    for name in STAGES:
        began = time.monotonic()
        with attempt(name):
            run_stage(name, config)
            report(name, True, seconds=time.monotonic() - began)
    with attempt("accuracies"):
        found = _accuracies(config)
        expected = {} if given.tiny else json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
        for case, (right, items) in found.items():
            share, cpu = right / items, expected.get(case)
            error = math.sqrt(2 * max(cpu * (1 - cpu), 0.01) / items) if cpu is not None else None
            report(
                case, None if cpu is None or error is None else abs(share - cpu) < 4 * error, share=share, cpu=cpu, items=items
            )
    with attempt("killed and resumed"):
        _kill_and_resume(given)


if __name__ == "__main__":
    main()
