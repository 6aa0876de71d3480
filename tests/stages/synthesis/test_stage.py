"""Synthesis stage on a random student: its artifact depends neither on kills nor on the order of questions."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from pipeline.rationales.curation import place
from stages.core.progress import Progress
from stages.core.summaries import SynthesisSummary
from stages.sampling import stage as sampling
from stages.synthesis import stage as synthesis
from storage.artifact import Artifact, Draft
from storage.fingerprint import file_digest
from tests.support.artifacts import write_artifact
from tests.support.questions.tables import training_table
from tests.support.runs import tree_of, write_config
from tests.support.synthetic_artifacts import PERSPECTIVES, question, rationale

QUESTIONS, PER_SHARD = 18, 4


def samples(numbers: list[int]) -> pa.Table:
    """Samples where every fifth question has too few correct rationales, and a wrong sample precedes each correct one."""
    rows = []
    for n in numbers:
        for k, name in enumerate(PERSPECTIVES):
            for index, right in ((0, False), (1, n % 5 > 0 or k < 2)):
                row = dict.fromkeys(sampling.SCHEMA.names) | {"sample_index": index, "gold": str(n % 10)}
                row |= {"question_id": question(n).id, "perspective": name, "text": rationale(n, k)}
                rows.append({**row, "outcome": "correct" if right else "wrong"})
    return pa.Table.from_pylist(rows, schema=sampling.SCHEMA)


def inputs(root: Path) -> dict[str, Artifact]:
    """Questions in order and their samples in another order; one shard has only questions that are dropped."""
    order = random.Random(0).sample(range(QUESTIONS), QUESTIONS)
    order = [n for n in order if n % 5] + [n for n in order if n % 5 == 0]

    def write_questions(draft: Draft) -> dict[str, Any]:
        draft.write_shard("questions", training_table([question(n) for n in range(QUESTIONS)]))
        return {"train": QUESTIONS}

    def write_samples(draft: Draft) -> dict[str, Any]:
        for first in range(0, QUESTIONS, PER_SHARD):
            draft.write_shard("samples", samples(order[first : first + PER_SHARD]))
        return {"questions": QUESTIONS}

    return {
        "questions": write_artifact(root, "questions", write_questions),
        "sampling": write_artifact(root, "sampling", write_samples),
    }


def config(model: Path, perspectives: Path | None = None, **changes: Any) -> synthesis.Config:
    tree = tree_of(model) | {"perspectives": perspectives}
    tree["synthesis"] = {
        "engine": {"kind": "transformers", "dtype": "float32"}, "attempts": 1, "max_tokens": 1, "keep_easy": 0.5,
        "warm_up_epochs": 2, "batch_questions": 4, "metanet": {"width": 8, "heads": 2}, **changes,
    }  # fmt: skip
    return synthesis.config_of(RunConfig.model_validate(tree))


def synthesised(root: Path, settings: synthesis.Config, read: dict[str, Artifact], before: list[Path]) -> Artifact:
    """The stage's artifact; `before` are files already committed, as after a kill."""

    def write(draft: Draft) -> dict[str, Any]:
        for path in before:
            shutil.copy(path, draft.folder)
        return synthesis.run(settings, read, draft, Progress(root / "progress", "synthesis"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "synthesis", write)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[dict[str, Artifact], Artifact]:
    root = tmp_path_factory.mktemp("synthesis")
    read = inputs(root)
    return read, synthesised(root, config(tiny_model), read, [])


def commits(artifact: Artifact) -> list[Path]:
    """The artifact's files in the order in which the stage commits them."""
    shards = range(len(artifact.files("rationales")))
    measured = [artifact.path(f"{name}-{number:05d}.parquet") for number in shards for name in ("features", "rationales")]
    return [*artifact.files("attempts"), *measured, *artifact.files("sets"), artifact.path("metanet.safetensors")]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_a_kill_after_any_commit_changes_no_byte(
    tmp_path: Path, tiny_model: Path, world: tuple[dict[str, Artifact], Artifact], share: float
) -> None:
    read, whole = world
    every = commits(whole)
    again = synthesised(tmp_path / "again", config(tiny_model), read, every[: round(share * len(every))])
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


def test_tables_have_the_same_keys_and_counts_add_up(world: tuple[dict[str, Artifact], Artifact]) -> None:
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


def test_max_questions_keeps_the_same_questions_for_any_order_or_kill(
    tmp_path: Path, tiny_model: Path, world: tuple[dict[str, Artifact], Artifact]
) -> None:
    read, whole = world
    few = synthesised(tmp_path / "few", config(tiny_model, max_questions=5), read, [])
    summary, every = few.summary, {row["question_id"] for row in whole.table("sets").to_pylist()}
    stayed = [row["question_id"] for row in few.table("sets").to_pylist()]
    assert set(stayed) == set(sorted(every, key=lambda question_id: place(question_id, 0))[:5])
    assert summary["over_max_questions"] == len(every) - 5
    fallen = summary["too_few_perspectives"] + summary["easy_left_out"] + summary["over_max_questions"]
    assert summary["questions"] == QUESTIONS == fallen + summary["kept_questions"]
    assert summary["tokens_kept"] == sum(few.table("rationales")["tokens"].to_pylist())
    half = commits(few)[: len(commits(few)) // 2]
    again = synthesised(tmp_path / "again", config(tiny_model, max_questions=5), read, half)
    assert [file_digest(path) for path in commits(again)] == [file_digest(path) for path in commits(few)]


def test_form_require_drops_and_counts_rationales_of_another_form(
    tmp_path: Path, tiny_model: Path, world: tuple[dict[str, Artifact], Artifact]
) -> None:
    read, whole = world
    items = [{"name": name, "description": "d", "instruction": "i"} for name in PERSPECTIVES]
    items[1]["form"] = {"all": ["^10 plus [0-4] "]}  # type: ignore[assignment]
    mine = write_config(tmp_path, {"version": 1, "perspectives": items}, "mine.yaml")
    reported = config(tiny_model, mine)
    assert all(item.form is None for item in reported.perspectives), "a form that is only counted makes nothing stale"

    required = synthesised(tmp_path, config(tiny_model, mine, form="require"), read, [])
    assert required.summary["wrong_form"] == sum(n % 10 > 4 for n in range(QUESTIONS))
    assert whole.summary["wrong_form"] == 0
    found = {row["question_id"] for row in required.table("rationales").to_pylist() if row["perspective"] == PERSPECTIVES[1]}
    assert found == {question(n).id for n in range(QUESTIONS) if n % 5 and n % 10 < 5}
    assert required.summary["kept_rationales"] == whole.summary["kept_rationales"] - sum(
        n % 5 > 0 and n % 10 > 4 for n in range(QUESTIONS)
    )


@pytest.mark.parametrize("prompt", ["{{ perspective }}: {{ question }}", "{{ instruction }}"])
def test_form_require_needs_a_perspective_with_a_form(tmp_path: Path, tiny_model: Path, prompt: str) -> None:
    form = {} if "instruction" in prompt else {"form": {"all": ["a"]}}
    items = [{"name": "plain", "description": "d", "instruction": "i", **form}]
    tree = tree_of(tiny_model) | {"perspectives": write_config(tmp_path, {"version": 1, "perspectives": items}, "mine.yaml")}
    tree |= {"synthesis": {"form": "require"}, "prompts": {"perspective": prompt}}
    with pytest.raises(ConfigError, match=r"synthesis\.form: require, but no perspective has a form"):
        synthesis.check(synthesis.config_of(RunConfig.model_validate(tree)))


def test_majority_require_drops_questions_with_another_majority_answer(tmp_path: Path, tiny_model: Path) -> None:
    """Samples of question 4 agree on a wrong answer except in three perspectives; other wrong answers are all different."""
    read = inputs(tmp_path)

    def write(draft: Draft) -> dict[str, Any]:
        rows = samples(list(range(QUESTIONS))).to_pylist()
        for number, row in enumerate(rows):
            mine = row["question_id"] == question(4).id
            if mine and row["perspective"] not in PERSPECTIVES[:3]:
                row["outcome"] = "wrong"
            row["answer"] = row["gold"] if row["outcome"] == "correct" else "12" if mine else f"other {number}"
        draft.write_shard("samples", pa.Table.from_pylist(rows, schema=sampling.SCHEMA))
        return {"questions": QUESTIONS}

    (tmp_path / "voted").mkdir()
    read["sampling"] = write_artifact(tmp_path / "voted", "sampling", write)
    free = synthesised(tmp_path / "free", config(tiny_model), read, [])
    strict = synthesised(tmp_path / "strict", config(tiny_model, majority="require"), read, [])
    ids = [{row["question_id"] for row in made.table("sets").to_pylist()} for made in (free, strict)]
    assert ids[0] - ids[1] == {question(4).id}
    assert (free.summary["against_majority"], strict.summary["against_majority"]) == (0, 3)


def test_without_down_sampling_the_base_student_attempts_nothing(tmp_path: Path, tiny_model: Path) -> None:
    found = synthesised(tmp_path / "all", config(tiny_model, keep_easy=1.0), inputs(tmp_path), [])
    assert not list(found.folder.glob("attempts-*"))
    assert SynthesisSummary.of(found).mean_pass_rate is None
    assert {row["pass_rate"] for row in found.table("sets").to_pylist()} == {None}
