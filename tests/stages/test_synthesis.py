"""Synthesis on a random student: what it makes does not depend on where it was killed, nor on the order of questions."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import RunConfig
from stages import sampling, synthesis
from stages.progress import Progress
from storage.artifact import Artifact, Draft
from storage.fingerprint import file_digest
from tests.bench.world import PERSPECTIVES, question, rationale
from tests.conftest import tree_of
from tests.stages.artifacts import write_artifact
from tests.stages.test_questions import marked

QUESTIONS, PER_SHARD = 18, 4


def samples(numbers: list[int]) -> pa.Table:
    """Every fifth question has too few right rationales; there is a wrong one before each right one."""
    rows = []
    for n in numbers:
        for k, name in enumerate(PERSPECTIVES):
            for index, right in ((0, False), (1, n % 5 > 0 or k < 2)):
                row = dict.fromkeys(sampling.SCHEMA.names) | {"sample_index": index, "gold": str(n % 10)}
                row |= {"question_id": question(n).id, "perspective": name, "text": rationale(n, k)}
                rows.append({**row, "outcome": "correct" if right else "wrong"})
    return pa.Table.from_pylist(rows, schema=sampling.SCHEMA)


def inputs(root: Path) -> dict[str, Artifact]:
    """Questions in order; their samples in another, one shard of them about no question that is kept."""
    order = random.Random(0).sample(range(QUESTIONS), QUESTIONS)
    order = [n for n in order if n % 5] + [n for n in order if n % 5 == 0]

    def write_questions(draft: Draft) -> dict[str, Any]:
        draft.write_shard("questions", marked([question(n) for n in range(QUESTIONS)]))
        return {"train": QUESTIONS}

    def write_samples(draft: Draft) -> dict[str, Any]:
        for first in range(0, QUESTIONS, PER_SHARD):
            draft.write_shard("samples", samples(order[first : first + PER_SHARD]))
        return {"questions": QUESTIONS}

    return {
        "questions": write_artifact(root, "questions", write_questions),
        "sampling": write_artifact(root, "sampling", write_samples),
    }


def config(model: Path) -> synthesis.Config:
    tree = tree_of(model)
    tree["synthesis"] = {
        "engine": {"kind": "transformers", "dtype": "float32"}, "attempts": 1, "max_tokens": 1, "keep_easy": 1.0,
        "warm_up_epochs": 2, "batch_questions": 4, "metanet": {"width": 8, "heads": 2},
    }  # fmt: skip
    return synthesis.config_of(RunConfig.model_validate(tree))


def synthesised(root: Path, model: Path, read: dict[str, Artifact], before: list[Path]) -> Artifact:
    """The stage's artifact; `before` are files that a killed process has committed."""

    def write(draft: Draft) -> dict[str, Any]:
        for path in before:
            shutil.copy(path, draft.folder)
        return synthesis.run(config(model), read, draft, Progress(root / "progress", "synthesis"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "synthesis", write)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[dict[str, Artifact], Artifact]:
    root = tmp_path_factory.mktemp("synthesis")
    read = inputs(root)
    return read, synthesised(root, tiny_model, read, [])


def commits(artifact: Artifact) -> list[Path]:
    """Its files in the order in which the stage commits them."""
    shards = range(len(artifact.files("rationales")))
    measured = [artifact.path(f"{name}-{number:05d}.parquet") for number in shards for name in ("features", "rationales")]
    return [*artifact.files("attempts"), *measured, *artifact.files("sets"), artifact.path("metanet.safetensors")]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_a_kill_after_any_commit_changes_no_byte(
    tmp_path: Path, tiny_model: Path, world: tuple[dict[str, Artifact], Artifact], share: float
) -> None:
    read, whole = world
    every = commits(whole)
    again = synthesised(tmp_path / "again", tiny_model, read, every[: round(share * len(every))])
    assert [path.name for path in commits(again)] == [path.name for path in every]
    assert [file_digest(path) for path in commits(again)] == [file_digest(path) for path in every]
    assert again.summary == whole.summary


def test_a_rationale_has_the_prompt_and_answer_of_its_own_question(world: tuple[dict[str, Artifact], Artifact]) -> None:
    _, artifact = world
    rows = artifact.table("rationales").to_pylist()
    prompts = {question(n).id: (question(n).text, str(n % 10)) for n in range(QUESTIONS)}
    for row in rows:
        text, answer = prompts[row["question_id"]]
        assert row["prompt"].startswith(text)
        assert row["answer"] == answer
        assert row["rationale"].endswith(f"\\boxed{{{answer}}}.")
    assert {row["question_id"] for row in rows} == {question(n).id for n in range(QUESTIONS) if n % 5}


def test_tables_stand_side_by_side_and_counts_add_up(world: tuple[dict[str, Artifact], Artifact]) -> None:
    _, artifact = world
    keys = [artifact.table(name).select(["question_id", "perspective"]).to_pylist() for name in ("rationales", "features")]
    assert keys[0] == keys[1]
    sets = artifact.table("sets").to_pylist()
    assert [row["question_id"] for row in sets] == list(dict.fromkeys(key["question_id"] for key in keys[0]))
    for row in sets:
        assert [score is not None for score in row["score_K"]] == row["mask_K"]
        assert sum(row["preference_K"]) == pytest.approx(1, abs=1e-6)
    summary = artifact.summary
    assert summary["questions"] == QUESTIONS == summary["kept_questions"] + summary["too_few_perspectives"]
    assert summary["kept_rationales"] == len(keys[0]) == sum(summary["kept"].values())
    losses = artifact.table("rationales")["base_loss"].to_pylist()
    assert sum(losses) == pytest.approx(
        sum(summary["base_loss"][name] * count for name, count in summary["kept"].items()), rel=1e-5
    )
