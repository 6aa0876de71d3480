"""Stage 5: trains the student and MetaNet jointly under DeepSpeed ZeRO, on one or more ranks.

A single rank runs in this process; several ranks are started and watched by torch's launcher. Writes `student/` (a transformers folder that
`from_pretrained` and vLLM load), `metanet.safetensors`, `inertia.safetensors`, and the log of every step as Parquet. Checkpoints are
kept in the draft's scratch folder and removed with it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.config import ModelSource, Objective, Prompts, RunConfig, Training
from pipeline.errors import BadInput, ConfigError, ModelError, NothingSurvives, StageFailed
from pipeline.fields import Frozen, identity
from pipeline.models import check_model, context_length, model_content
from pipeline.perspectives import Perspective, perspectives_of, without_forms
from pipeline.prompts import as_asked
from stages.progress import Progress
from storage.artifact import Artifact, Draft

NAME: Final = "training"
VERSION: Final = 2
INPUTS: Final = ("synthesis",)
REFUSED: Final = "refused"
SPEC: Final = "spec.json"
"""File in the scratch folder that tells the ranks of every host what to train."""


class Config(Frozen):
    """Base student, training settings, and the perspectives of MetaNet's heads."""

    student: ModelSource = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    training: Training = identity()
    objective: Objective = identity()
    metanet_heads: int = identity()
    metanet_width: int = identity()
    seed: int = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(
        student=run.student,
        perspectives=without_forms(as_asked(run.prompts, perspectives_of(run))),
        prompts=run.prompts,
        training=run.training,
        objective=run.objective,
        metanet_heads=run.synthesis.metanet.heads,
        metanet_width=run.synthesis.metanet.width,
        seed=run.seed,
    )


def outside(config: Config) -> dict[str, str]:
    """Content digest of the base student."""
    return {"student": model_content(config.student)}


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _gpu_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def check(config: Config) -> None:
    """Check the model folder, the maximum row length, and the names of perspectives."""
    check_model(config.student, "student")
    if config.training.packing == "flex" and not _gpu_is_there():
        raise ConfigError("training.packing: flex requires a GPU; none found; set training.packing to rows or none")
    known = [item.name for item in config.perspectives]
    for name in config.training.perspectives or ():
        if name not in known:
            raise ConfigError(f"training.perspectives: {name!r} is unknown; use some of {', '.join(known)}")
    limit = context_length(config.student.path) if config.student.path is not None else None
    if limit is not None and config.training.max_length > limit:
        raise ModelError(
            f"training.max_length: {config.training.max_length} exceeds the student's context of {limit}; lower it"
        )


def _choose_port(wanted: int | None) -> int:
    if wanted is not None:
        if not _port_is_free(wanted):
            raise ConfigError(f"training.port: {wanted} is in use on 127.0.0.1; omit it to use a free port")
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher_of(training: Training, spec: str, port: int, host: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of torch's launcher, which starts the ranks of one host."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(training.hosts), "--node-rank", str(host),
        "--nproc-per-node", str(training.ranks // training.hosts), "--master-addr", training.address or "127.0.0.1",
        "--master-port", str(port), "-m", "stages.training_rank", spec,
    ]  # fmt: skip
    return command, {**os.environ, **surroundings(training)}


def _launch(config: Config, spec: str, port: int) -> None:
    """Start the ranks and wait for them."""
    command, environment = launcher_of(config.training, spec, port, 0)
    refused = Path(spec).with_name(REFUSED)
    refused.unlink(missing_ok=True)
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as launcher:
        try:
            code = launcher.wait()
        except BaseException:
            launcher.terminate()
            raise
    if code and refused.exists():
        message = refused.read_text()
        refused.unlink()
        raise BadInput(message)
    if code:
        raise StageFailed(
            f"training: the launcher exited with code {code}; see the log above (signal 9 means that a rank was killed, usually out "
            "of memory: lower questions_per_micro_batch or raise zero_stage); run again to resume"
        )


def surroundings(training: Training) -> dict[str, str]:
    """Environment variables of every rank."""
    import torch

    return {
        "OMP_NUM_THREADS": str(training.threads_per_rank),
        "TOKENIZERS_PARALLELISM": "false",
        # If a library aborts a rank, its thread stacks are written to the log.
        "PYTHONFAULTHANDLER": "1",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu"),
    }


def _be_the_rank(config: Config, document: dict[str, Any], port: int) -> None:
    """Train in this process, which avoids starting another one; several trainings in one process share its process group."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({**surroundings(config.training), **alone})
    from stages import training_rank

    training_rank.join(config.training)
    training_rank.train_as(document)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Take all steps, in this process or in ranks of their own.

    Raises:
        NothingSurvives: synthesis kept fewer questions than a step takes.
        BadInput: a rank rejected its input.
        StageFailed: a rank or the launcher failed.
    """
    kept, wanted = inputs["synthesis"].summary["kept_questions"], config.training.questions_per_step
    if kept < wanted:
        raise NothingSurvives(
            f"training.questions_per_step: {wanted}, but synthesis kept {kept} questions; lower it or sample more questions"
        )
    if config.training.hosts > 1 and out.mirror is not None:
        raise ConfigError(
            "training.hosts: hosts share checkpoints through the root's folder; set root to a folder that all hosts can access"
        )
    port = _choose_port(config.training.port)
    document = {
        "config": config.model_dump(mode="json"),
        "synthesis": str(inputs["synthesis"].folder),
        "draft": str(out.folder),
        "scratch": str(out.scratch),
        "progress": str(progress.path),
        "mirror": None
        if out.mirror is None
        else {"url": out.mirror.remote.url, "root": str(out.mirror.root), "name": out.name},
    }
    if not (out.scratch / "summary.json").exists() or not out.path("student").is_dir():
        if config.training.ranks == 1:
            _be_the_rank(config, document, port)
        else:
            spec = out.scratch / SPEC
            spec.write_text(json.dumps(document))
            _launch(config, str(spec), port)
    summary: dict[str, Any] = json.loads((out.scratch / "summary.json").read_text())
    for leftover in out.folder.glob("student.*"):
        shutil.rmtree(leftover)
    return summary


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
