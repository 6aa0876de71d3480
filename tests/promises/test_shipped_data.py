"""The shipped questions and rationales are what `configs/data/README.md` says: separate, complete, licensed and graded."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
import pytest

from pipeline.config.run import load_config
from pipeline.grading.grade import Outcome
from pipeline.perspectives.perspective import load_perspectives
from pipeline.questions.contamination import Evaluated, identity_digests, same_as
from pipeline.questions.load import load
from pipeline.questions.question import grades
from tests.support.runs import REPOSITORY

DATA = REPOSITORY / "configs" / "data"
CONFIGS = ["smollm2.yaml", "smollm2-gsm8k.yaml"]


@pytest.mark.parametrize(("name", "config"), zip(("bbh", "gsm8k"), CONFIGS, strict=True))
def test_every_question_has_a_rationale_of_every_perspective_and_nearly_all_are_right(name: str, config: str) -> None:
    rows = pq.read_table(DATA / name / "rationales.parquet").to_pylist()
    questions = {row["id"] for row in pq.read_table(DATA / name / "train.parquet", columns=["id"]).to_pylist()}
    every = {(question_id, item.name) for question_id in questions for item in load_perspectives(None)}
    assert Counter((row["question_id"], row["perspective"]) for row in rows) == Counter(every)
    (source,) = load_config(REPOSITORY / "configs" / config).questions.train
    asked = {question.id: question for question in load(source)}
    found = grades([(asked[row["question_id"]], row["rationale"], True) for row in rows])
    assert sum(grade.outcome == Outcome.CORRECT for grade in found) == 4016


@pytest.mark.parametrize("name", [*CONFIGS, "science-smollm2.yaml"])
def test_no_trained_question_is_evaluated_and_no_dev_question_is_tested(name: str) -> None:
    questions = load_config(REPOSITORY / "configs" / name).questions
    train = [question for source in questions.train for question in load(source)]
    dev, test = ([q for item in questions.evaluation if item.use == use for q in load(item.source)] for use in ("dev", "test"))
    assert len({q.id for q in train + dev + test}) == len(train) + len(dev) + len(test)
    known = {number: Evaluated("", question.id) for question in dev + test for number in identity_digests(question)}
    assert not [question.id for question in train if same_as(question, known)]
    shown = {number for question in test for number in identity_digests(question)}
    assert not [question.id for question in dev if shown & set(identity_digests(question))]


def test_every_folder_has_its_licence_and_the_whole_is_small() -> None:
    folders = [path for path in DATA.iterdir() if path.is_dir()]
    assert all(list(folder.glob("LICENSE.*")) for folder in folders)
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 3 * 2**20
