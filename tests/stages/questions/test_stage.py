from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import QuestionError
from stages.core.progress import Progress
from stages.questions import stage as questions
from storage.artifact import Artifact, Draft
from storage.fingerprint import file_digest
from tests.support.artifacts import write_artifact
from tests.support.questions.layouts import BENCHMARKS, write_by_hand, write_real_rows
from tests.support.questions.tables import NOTHING_LEFT_OUT, training_table

SOURCES: dict[str, Any] = {
    "train": [{"kind": "miniature", "family": "dial", "split": "train", "count": count} for count in (30,)],
    "evaluation": [
        {"name": name, "group": "id", "source": {"kind": "miniature", "family": name, "split": "test", "count": 5}}
        for name in ("dial", "lift")
    ],
}


def run(root: Path, sources: dict[str, Any], before: Any = None) -> dict[str, str]:
    """Digests of the shards that the stage writes; `before` may first add files to the draft."""
    root.mkdir(exist_ok=True)
    config = questions.Config.model_validate({"questions": sources})

    def write(draft: Draft) -> dict[str, Any]:
        if before is not None:
            before(draft)
        return questions.run(config, {}, draft, Progress(root / "progress", "questions"))

    artifact = write_artifact(root, "questions", write)
    return {path.name: file_digest(path) for path in artifact.files("questions")}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ROWS", 8)


def test_shards_are_full_except_the_last_and_evaluation_comes_first(tmp_path: Path) -> None:
    config = questions.Config.model_validate({"questions": SOURCES})
    progress = Progress(tmp_path / "progress", "questions")
    artifact = write_artifact(tmp_path, "questions", lambda draft: questions.run(config, {}, draft, progress))
    assert [batch.num_rows for batch in artifact.batches("questions")] == [8, 8, 8, 8, 8]
    assert artifact.table("questions")["role"].to_pylist() == ["id"] * 10 + ["train"] * 30
    assert artifact.summary == {**NOTHING_LEFT_OUT, "train": 30, "evaluation": {"dial": 5, "lift": 5}}


@pytest.mark.parametrize("shards", [1, 3, 9])
def test_shards_left_by_a_killed_process_are_replaced(tmp_path: Path, shards: int) -> None:
    def leave(draft: Draft) -> None:
        for _ in range(shards):
            draft.write_shard("questions", training_table([]))

    assert run(tmp_path / "killed", SOURCES, leave) == run(tmp_path / "whole", SOURCES)


def test_two_evaluation_sets_may_not_share_an_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "What is 3+4?", "answer": "7"}) + "\n")
    mine = [{"name": name, "group": "ood", "source": {"kind": "file", "path": str(path)}} for name in ("one", "two")]
    with pytest.raises(QuestionError, match=r"questions\.evaluation: id 'a' occurs twice"):
        run(tmp_path, {**SOURCES, "evaluation": mine})


def asked(root: Path, evaluation: list[dict[str, Any]], train: list[dict[str, Any]] | None = None) -> Artifact:
    """The stage's artifact for the given evaluation sets."""
    config = questions.Config.model_validate({"questions": {"train": train or SOURCES["train"], "evaluation": evaluation}})
    return write_artifact(
        root, "questions", lambda draft: questions.run(config, {}, draft, Progress(root / "progress", "questions"))
    )


def test_a_question_repeated_from_an_earlier_set_is_kept_and_marked(tmp_path: Path) -> None:
    def item(name: str, use: str, *wordings: str) -> dict[str, Any]:
        path = tmp_path / f"{name}.jsonl"
        rows = [{"id": f"{name} {n}", "question": wording, "answer": "7"} for n, wording in enumerate(wordings)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"name": name, "group": "ood", "use": use, "source": {"kind": "file", "path": str(path)}}

    sets = [
        item("one", "test", "What is 3+4?", "Why?", "why"),
        item("two", "test", "WHY?", "When?"),
        item("dev", "dev", "When?"),
    ]
    artifact = asked(tmp_path, sets)
    table = artifact.table("questions")
    assert list(zip(table["id"].to_pylist(), table["repeats"].to_pylist(), strict=True))[:6] == [
        ("one 0", ""), ("one 1", ""), ("one 2", ""), ("two 0", "one"), ("two 1", ""), ("dev 0", ""),
    ]  # fmt: skip
    assert artifact.summary["repeats"] == {"two": 1}


@pytest.mark.parametrize("names", [["gsm-hard"], ["gsm8k", "gsm-hard"], ["gsm-hard", "gsm8k"]])
def test_gsm_hard_repeats_of_gsm8k_are_marked_with_or_without_gsm8k(tmp_path: Path, names: list[str]) -> None:
    sets = [{"name": name, "group": "id", "source": {"kind": "named", "name": name, "split": "test"}} for name in names]
    for item in sets:
        item["source"]["folder"] = str(write_real_rows(tmp_path, BENCHMARKS, item["name"], "test"))  # type: ignore[index]
    artifact = asked(tmp_path, sets)
    assert artifact.summary["repeats"] == {"gsm-hard": 329}
    assert artifact.summary["evaluation"]["gsm-hard"] == 1319
    assert set(artifact.table("questions")["repeats"].to_pylist()) == {"", "gsm8k"}


def test_a_sample_is_spread_over_all_rows_and_ignores_their_order(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "question": f"{n}?", "answer": "7"} for n in range(200)]

    def drawn(name: str, rows: list[dict[str, str]]) -> list[str]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sampled = [{"name": "set", "group": "ood", "source": {"kind": "file", "path": str(path), "sample": 20}}]
        return [
            found for found in asked(tmp_path / name, sampled).table("questions")["id"].to_pylist() if found.startswith("q")
        ]

    one, other = drawn("one", rows), drawn("other", rows[::-1])
    assert len(one) == 20
    assert other == one[::-1]
    assert one == [f"q{n}" for n in sorted(int(found[1:]) for found in one)]
    assert int(one[-1][1:]) > 100


def test_questions_sampled_for_evaluation_are_left_out_of_training(tmp_path: Path) -> None:
    folder = write_by_hand(tmp_path, "gpqa-diamond")
    source = {"kind": "named", "name": "gpqa-diamond", "folder": str(folder)}
    evaluation = [{"name": "gpqa", "group": "id", "source": {**source, "sample": 3}}]
    artifact = asked(tmp_path, evaluation, [{**source, "despite_evaluation_only": True}])
    assert (artifact.summary["evaluation"], artifact.summary["train"]) == ({"gpqa": 3}, 5)
    assert artifact.summary["trained_despite_evaluation_only"] == ["gpqa-diamond"]


PASSAGE = "a farmer keeps nineteen brown hens and every hen lays three eggs"


@pytest.mark.parametrize(("shared_words", "kept"), [(None, 3), (13, 3), (12, 2), (6, 2), (5, 1)])
def test_questions_that_share_an_evaluated_passage_are_left_out_and_named(
    tmp_path: Path, shared_words: int | None, kept: int
) -> None:
    train = [f"Long ago {PASSAGE} daily. How many?", "Say: every hen lays three eggs. How many?", "What is 3+4?"]
    for name, texts in (("train", train), ("test", [f"Now {PASSAGE}. And then?"])):
        rows = ({"id": f"{name}{n}", "question": text, "answer": "7"} for n, text in enumerate(texts))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {name: {"kind": "file", "path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "test")}
    evaluation = [{"name": "eggs", "group": "id", "source": sources["test"]}]
    tree = {"train": [sources["train"]], "evaluation": evaluation, "shared_words": shared_words}
    config = questions.Config.model_validate({"questions": tree})

    def write(draft: Draft) -> dict[str, Any]:
        return questions.run(config, {}, draft, Progress(tmp_path / "progress", "questions"))

    artifact = write_artifact(tmp_path / "root", "questions", write)
    left = len(train) - kept
    assert artifact.summary["train"] == kept
    assert artifact.summary["left_out_because_of_a_passage"] == ({"eggs": left} if left else {})
    named = artifact.table("overlaps").to_pylist() if left else []
    assert [(row["question_id"], row["reason"], row["set"], row["evaluated_id"]) for row in named] == [
        (f"train{n}", "passage", "eggs", "test0") for n in range(left)
    ]
    assert all(row["passage"] in f"now {PASSAGE} and then" for row in named)


HENS = "A farmer keeps nineteen brown hens in a large coop and every one of the hens lays three eggs a week. How many eggs are that?"
TRAIN = [
    HENS,
    "What is 3+4?",
    HENS.replace("large", "small"),
    HENS.replace("How many", "HOW  MANY"),
    "A clock shows five. What is it in an hour?",
]


@pytest.mark.parametrize(("threshold", "fallen"), [(None, []), (1.0, ["q3"]), (0.7, ["q2", "q3"])])
def test_near_duplicates_are_left_out_and_listed_with_the_kept_question(
    tmp_path: Path, threshold: float | None, fallen: list[str]
) -> None:
    rows = [{"id": f"q{n}", "question": text, "answer": "7"} for n, text in enumerate(TRAIN)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {**SOURCES, "train": [{"kind": "file", "path": str(tmp_path / "train.jsonl")}], "near_duplicates": threshold}
    config = questions.Config.model_validate({"questions": tree})

    def write(draft: Draft) -> dict[str, Any]:
        draft.write_shard("near_duplicates", pa.table({"question_id": ["what a killed process has left"]}))
        return questions.run(config, {}, draft, Progress(tmp_path / "progress", "questions"))

    artifact = write_artifact(tmp_path / "root", "questions", write)
    assert artifact.summary["train"] == len(TRAIN) - len(fallen)
    assert artifact.summary["left_out_because_evaluated"] == 0
    assert artifact.summary.get("left_out_as_near_duplicates") == (None if threshold is None else len(fallen))
    named = artifact.table("near_duplicates").to_pylist() if fallen else []
    assert [(row["question_id"], row["kept_id"]) for row in named] == [(name, "q0") for name in fallen]
    assert all(row["similarity"] >= float(threshold or 0) for row in named)
    kept = [row["id"] for row in artifact.table("questions").to_pylist() if row["role"] == "train"]
    assert kept == [f"q{n}" for n in range(len(TRAIN)) if f"q{n}" not in fallen]
