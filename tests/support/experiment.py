"""The artifacts of a small experiment, without running it: rationales in several styles, and one training per arm.

Every student is the tiny model plus the noise of its arm, so all differ and none has learned anything.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import save

from pipeline.baselines_and_ablations import Volume, arms
from pipeline.config.run import RunConfig, load_config
from pipeline.config.synthesis import MetaNetShape
from pipeline.grading.grade import conclusion
from pipeline.metanet.network import MetaNet, preferences
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import student_prompt
from pipeline.questions.question import Question, to_table
from pipeline.training.training_set import make_row
from stages.core.plan import plan
from stages.core.process import store_of
from stages.experiments.latent.rows import names_of
from stages.synthesis.measurement import feature_table, rationale_table
from stages.synthesis.selection import Kept
from storage.artifact import Draft
from tests.support.runs import tree_of, write_config
from tests.support.summaries import complete

NAMES: Final = ["formal", "intuitive", "planning"]
TASKS: Final = ("even", "odd")
QUESTIONS: Final = 30
FEATURES: Final = 6
STYLES: Final = (
    "1) {a}+{b}={c}. 2) {c} is {c}. 3) {a}+{b}={c}. QED: {c}.",
    "Roughly speaking, well, {a} and {b} feel like {c}, yes, {c}!",
    "PLAN: TAKE {a}; THEN TAKE {b}; THEN ADD; CHECK [{c}]; DONE [{c}].",
)

Write = Callable[[int, int], str]


class Experiment(NamedTuple):
    """The file of the experiment, and the runs of seed 0 by arm."""

    config: Path
    runs: dict[str, RunConfig]


def question(number: int) -> Question:
    answer, task = str((number + number % 7) % 10), TASKS[number % 2]
    return Question(f"q/{number:04d}", f"What is {number} and {number % 7}?", answer, "number", split="train", task=task)


def styled(n: int, k: int) -> str:
    """A rationale in the words of its perspective."""
    found = STYLES[k].format(a=n, b=n % 7, c=(n + n % 7) % 10)
    return f"{found} {conclusion(question(n).answer)}"


def unstyled(n: int, k: int) -> str:
    """The same words for every perspective."""
    return styled(n, 0)


def tree(model: Path) -> dict[str, Any]:
    found = tree_of(model)
    found["only_perspectives"] = NAMES
    found["synthesis"] = {"metanet": {"width": 8, "heads": 2}}
    small = {"steps": 60, "questions_per_step": 5, "ranks": 1, "questions_per_micro_batch": 5, "precision": "fp32"}
    return {**found, "training": {**found["training"], **small}}


def _questions(draft: Draft) -> dict[str, Any]:
    table = to_table([question(n) for n in range(QUESTIONS)])
    for column in ("role", "set", "use"):
        table = table.append_column(column, pa.array(["train"] * QUESTIONS, pa.string()))
    draft.write_shard("questions", table)
    return {"train": QUESTIONS}


def metanet(seed: int) -> MetaNet:
    torch.manual_seed(seed)
    return MetaNet(len(NAMES), FEATURES, MetaNetShape(width=8, heads=2)).eval()


def synthesis(run: RunConfig, text: Write, draft: Draft) -> dict[str, Any]:
    """A synthesis artifact of two shards; the last question lacks a perspective."""
    tokenizer, random = load_tokenizer(run.student), torch.Generator().manual_seed(0)
    for first in range(0, QUESTIONS, QUESTIONS // 2):
        kept, numbers = [], range(first, first + QUESTIONS // 2)
        for n in numbers:
            prompt = student_prompt(run.prompts, question(n))
            for k in range(len(NAMES) - (n == QUESTIONS - 1)):
                row = make_row(tokenizer, tokenizer(prompt)["input_ids"], text(n, k), question(n).answer, 500, "")
                kept.append(Kept(question(n).id, NAMES[k], row, prompt, text(n, k), question(n).answer))
        features_BF = torch.randn(len(kept), FEATURES, generator=random)
        features_BF[:, 0] = torch.tensor([float(item.question_id[-1]) % 2 for item in kept])
        draft.write_shard("features", feature_table(kept, features_BF))
        draft.write_shard("rationales", rationale_table(kept, torch.rand(len(kept), generator=random)))
        draft.write_shard("sets", _sets(kept, list(numbers)))
    draft.write_bytes("metanet.safetensors", save(dict(metanet(0).state_dict())))
    return {"kept_questions": QUESTIONS}


def _sets(kept: list[Kept], numbers: list[int]) -> pa.Table:
    mask_QK = torch.tensor([[any(item.question_id == question(n).id and item.perspective == name for item in kept) for name in NAMES]
                            for n in numbers])  # fmt: skip
    weights_QK = preferences(torch.zeros(mask_QK.shape).masked_fill(~mask_QK, float("-inf")), 1.0)
    ids = [question(n).id for n in numbers]
    return pa.table({"question_id": ids, "mask_K": mask_QK.tolist(), "preference_K": weights_QK.tolist()})


def _student(model: Path, folder: Path, arm: str) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    torch.manual_seed(zlib.crc32(arm.encode()))
    weights = load_file(folder / "model.safetensors")
    moved = {
        name: value + value.std() * torch.randn(value.shape) if value.ndim > 1 else value for name, value in weights.items()
    }
    save_file(moved, folder / "model.safetensors", {"format": "pt"})


def _training(model: Path, run: RunConfig, arm: str, draft: Draft) -> dict[str, Any]:
    _student(model, draft.path("student"), arm)
    draft.write_bytes("metanet.safetensors", save(dict(metanet(1).state_dict())))
    steps = pa.table({"alpha_K": torch.rand(run.training.steps, len(NAMES)).tolist()})
    draft.write_table("steps-000060", steps.replace_schema_metadata({b"perspectives": json.dumps(names_of(run)).encode()}))
    return {"steps": run.training.steps}


def commit_experiment(folder: Path, model: Path, text: Write = styled, **training: Any) -> Experiment:
    """All artifacts that the analysis reads, at their fingerprints."""
    changed = tree(model)
    changed["training"] |= training
    config = write_config(folder, changed)
    base = load_config(config)
    runs = {}
    for arm in arms(Volume(base.training.questions_per_step, base.training.questions_per_micro_batch), NAMES, NAMES[0]):
        if arm.name in ("mind", "uniform") or arm.name.startswith("single-"):
            # As the experiment names them.
            own = (f"seed={0}", "evaluation.use=dev", f"name={base.name}-{arm.name}-0")
            runs[arm.name] = load_config(config, (*arm.assignments(), *own))
    for name, run in runs.items():
        commit(run, "questions", _questions)
        commit(run, "synthesis", lambda draft, run=run: synthesis(run, text, draft))
        commit(run, "training", lambda draft, run=run, name=name: _training(model, run, name, draft))
    return Experiment(config, runs)


def commit(run: RunConfig, stage: str, write: Callable[[Draft], dict[str, Any]]) -> None:
    store, planned = store_of(run), plan(run)[stage]
    if store.exists(stage, planned.fingerprint):
        return
    with store.draft(stage, planned.fingerprint) as draft:
        store.commit(
            draft, {"summary": complete(planned.name, write(draft)), "inputs": planned.inputs, "identity": planned.identity}
        )
