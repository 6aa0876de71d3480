"""Stage 5: trains the student and MetaNet jointly under DeepSpeed ZeRO, on one or more ranks.

A single rank runs in this process; several ranks are started and watched by torch's launcher. Writes `student/` (a transformers folder that
`from_pretrained` and vLLM load), `metanet.safetensors`, `inertia.safetensors`, and the log of every step as Parquet. Checkpoints are
kept in the draft's scratch folder and removed with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any, Final

from pipeline.errors import ConfigError, NothingSurvives
from stages.core.progress import Progress
from stages.core.summaries import SynthesisSummary, TrainingSummary
from stages.training.launcher import SPEC_FILE, check_machine, choose_port, launch, only_rank_environment
from stages.training.stage_config import Config as Config
from stages.training.stage_config import check as check
from stages.training.stage_config import config_of as config_of
from stages.training.stage_config import outside as outside
from storage.artifact import Artifact, Draft

NAME: Final = "training"
VERSION: Final = 5
INPUTS: Final = ("synthesis",)


def _train_in_process(config: Config, document: dict[str, Any], port: int) -> None:
    """Train in this process, which avoids starting another one; several trainings in one process share its process group."""
    os.environ.update(only_rank_environment(config.training, port))
    from stages.training import rank

    rank.join(config.training)
    rank.train_as(document)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> TrainingSummary:
    """Take all steps, in this process or in ranks of their own.

    Raises:
        NothingSurvives: synthesis kept fewer questions than a step takes.
        BadInput: a rank rejected its input.
        StageFailed: a rank or the launcher failed.
    """
    synthesis = inputs["synthesis"]
    kept, wanted = SynthesisSummary.of(synthesis).kept_questions, config.training.questions_per_step
    if kept < wanted:
        raise NothingSurvives(
            f"training.questions_per_step: {wanted}, but synthesis kept {kept} questions; lower it or sample more questions"
        )
    if config.training.hosts > 1 and out.mirror is not None:
        raise ConfigError(
            "training.hosts: hosts share checkpoints through the root's folder; set root to a folder that all hosts can access"
        )
    check_machine(config.training)
    port = choose_port(config.training.port)
    document = {
        "config": config.model_dump(mode="json"),
        "synthesis": {"root": str(synthesis.root), "fingerprint": synthesis.fingerprint},
        "questions": synthesis.manifest["inputs"].get("questions"),
        "draft": str(out.folder),
        "scratch": str(out.scratch),
        "progress": str(progress.path),
        "mirror": None
        if out.mirror is None
        else {"url": out.mirror.remote.url, "root": str(out.mirror.root), "name": out.name},
    }
    if not (out.scratch / "summary.json").exists() or not out.path("student").is_dir():
        if config.training.ranks == 1:
            _train_in_process(config, document, port)
        else:
            spec = out.scratch / SPEC_FILE
            spec.write_text(json.dumps(document))
            launch(config.training, str(spec), port)
    summary = TrainingSummary.model_validate_json((out.scratch / "summary.json").read_text())
    for leftover in out.folder.glob("student.*"):
        shutil.rmtree(leftover)
    return summary
