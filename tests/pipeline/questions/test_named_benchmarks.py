from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.questions import Questions
from pipeline.errors import QuestionError
from pipeline.grading.grade import ANSWER_TYPES, Outcome, canonical, conclusion
from pipeline.questions.load import content, load
from pipeline.questions.named_benchmarks import NamedSource, also_in, entries
from pipeline.questions.question import Question
from pipeline.questions.sources import Columns, HubSource
from pipeline.schema.linear_patterns import captured
from tests.support.questions.layouts import BENCHMARKS, BY_HAND, real_rows, right_choices, write_by_hand, write_real_rows


def named(name: str, folder: Path, **fields: Any) -> NamedSource:
    return NamedSource.model_validate({"name": name, "folder": folder, **fields})


def loaded(tmp_path: Path, name: str, **fields: Any) -> list[Question]:
    return list(load(named(name, write_by_hand(tmp_path, name), **fields)))


def test_gsm8k(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, "gsm8k", split="test")
    assert question == Question(
        id="gsm8k/test/1",
        question="What do 2 robes of $1,000 cost?",
        answer="2000",
        answer_type="number",
        rationale="2*1000=2000\n#### 2,000",
        source="gsm8k",
        split="test",
    )
    assert [item.answer for item in load(named("gsm8k", tmp_path / "gsm8k", split="train"))] == ["12"]


def test_svamp_joins_body_and_question(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, "svamp", split="test")
    assert (question.id, question.question) == ("svamp/chal-777", "There are 87 oranges. How many are left of them?")
    assert (question.answer, question.answer_type, question.task) == ("85", "number", "Subtraction")


def test_gsm_hard_reads_numeric_answers(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, "gsm-hard")
    assert (question.answer, question.answer_type, question.split) == ("3431580", "number", "test")


def test_aqua_strips_letters_from_the_choices(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, "aqua", split="test")
    assert question.text == "3 + 18?\n(A) 21\n(B) 21.5\n(C) 22\n(D) 22.5\n(E) None"
    assert (question.answer, question.rationale) == ("A", "21.")


def test_nested_choices_are_read_with_their_labels(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, "commonsense-qa", split="validation")
    assert (question.choices, question.answer) == (("bank", "library", "store", "mall", "new york"), "A")
    (easy,) = loaded(tmp_path, "arc-easy", split="test")
    assert (easy.id, easy.choices, easy.answer) == ("arc-easy/Mercury_417466", ("ice", "fire"), "B")
    (challenge,) = loaded(tmp_path, "arc-challenge", split="test")
    assert (challenge.choices, challenge.answer) == (("ice", "fire", "air"), "A")


def test_strategy_qa_answers_yes_and_no(tmp_path: Path) -> None:
    assert [item.answer for item in loaded(tmp_path, "strategy-qa", split="test")] == ["yes", "no"]


def test_gpqa_shuffles_its_choices_by_question_id(tmp_path: Path) -> None:
    questions = loaded(tmp_path, "gpqa-diamond")
    assert right_choices(questions) == ["B. subtilis\n"] * 8
    assert {tuple(sorted(item.choices)) for item in questions} == {("A", "B. subtilis\n", "C. elegans", "none")}
    assert len({item.answer for item in questions}) > 1, "the right choice is not always in the same place"
    assert questions == loaded(tmp_path / "again", "gpqa-diamond")
    assert (questions[0].id, questions[0].task, questions[0].split) == ("gpqa-diamond/rec0", "Biology", "test")


def test_bbh_extracts_lettered_options_and_keeps_the_others(tmp_path: Path) -> None:
    tasks = [file.removesuffix("/test") for file in BY_HAND["bbh"]]
    found = {item.task: item for item in loaded(tmp_path, "bbh", tasks=tasks)}
    assert {task: (item.answer_type, item.answer) for task, item in found.items()} == {
        "snarks": ("choice", "B"), "navigate": ("boolean", "no"), "boolean_expressions": ("boolean", "no"),
        "object_counting": ("number", "2"), "formal_fallacies": ("text", "invalid"), "dyck_languages": ("text", "] ]"),
    }  # fmt: skip
    assert (found["snarks"].question, found["snarks"].choices) == ("Which is sarcastic?", ("He is kind", "He is (so) kind: A"))
    assert found["navigate"].text == "Do you return?\nOptions:\n- Yes\n- No"
    assert found["snarks"].id == "bbh/snarks/test/1"


def test_agieval_reads_one_folder_per_task_and_answers_by_index(tmp_path: Path) -> None:
    found = {item.task: item for item in loaded(tmp_path, "agieval")}
    assert list(found) == ["lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-math"]
    assert {(item.choices, item.answer) for item in found.values()} == {(("2", "Q: 4"), "B")}
    assert found["sat-math"].question == "What is x in sat-math?"
    assert found["sat-en"].question == "Once. Q: What is x in sat-en?"
    (alone,) = load(named("agieval", tmp_path / "agieval", tasks=["sat-math"]))
    assert (alone.question, alone.task) == ("What is x in sat-math?", "sat-math")


def _as_text(name: str, folder: Path, **fields: Any) -> list[Question]:
    """A mathematics set with its answers read as text."""
    columns = Columns.model_validate(entries()[name].source["columns"])
    return list(load(HubSource(folder=folder, columns=columns, answer_type="text", **fields)))


def test_math_reads_the_last_boxed_answer_of_the_solution(tmp_path: Path) -> None:
    (question,) = _as_text("math", write_by_hand(tmp_path, "math"), subset="geometry", split="train")
    assert (question.answer, question.task) == ("\\frac{1}{4}", "geometry")
    (question,) = _as_text("math500", write_by_hand(tmp_path, "math500"), split="test")
    assert (question.id, question.answer) == ("test/precalculus/807.json", "\\left( 3, \\frac{\\pi}{2} \\right)")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("It is $\\boxed{2}$.", "2"),
        ("$\\boxed{1}$, then $\\boxed{\\frac{\\sqrt{3}}{2}}$", "\\frac{\\sqrt{3}}{2}"),
        ("$\\boxed{\\left(\\frac{\\sqrt{x_{1}}}{2}\\right)}$ and {more}.", "\\left(\\frac{\\sqrt{x_{1}}}{2}\\right)"),
        ("costs $\\boxed{\\$18.90}$.", "\\$18.90"),
        ("the set $\\boxed{\\{1, 2\\}}$", "\\{1, 2\\}"),
        ("so $\\boxed 7$ it is", "7"),
        ("so $\\fbox{7}$", "7"),
        ("\\[\\boxed{\\begin{pmatrix} 1 \\\\ \\frac{1}{2} \\end{pmatrix}}\\]", "\\begin{pmatrix} 1 \\\\ \\frac{1}{2} \\end{pmatrix}"),
    ],
)  # fmt: skip
def test_the_math_answer_pattern_balances_braces(solution: str, answer: str) -> None:
    found = captured(entries()["math"].source["columns"]["answer_pattern"], solution)
    assert found is not None
    assert found.strip() == answer


@pytest.mark.skipif("math" not in ANSWER_TYPES, reason="grading does not know mathematics")
@pytest.mark.parametrize(("name", "split"), [("math", "train"), ("math", "test"), ("math500", "test")])
def test_mathematics_is_loaded_by_name(tmp_path: Path, name: str, split: str) -> None:
    assert all(item.answer_type == "math" for item in loaded(tmp_path, name, split=split))


@pytest.mark.parametrize(
    ("name", "split"),
    [("gsm8k", "train"), ("gsm8k", "test"), ("svamp", "test"), ("gsm-hard", "test"), ("commonsense-qa", "train"),
     ("commonsense-qa", "validation"), ("strategy-qa", "train"), ("strategy-qa", "test"), ("aqua", "test"), ("agieval", "test")],
)  # fmt: skip
def test_real_rows_in_hub_layout_load_as_the_same_questions(tmp_path: Path, name: str, split: str) -> None:
    rows = sorted(real_rows(BENCHMARKS, name, split), key=lambda row: str(row["task"]) if name == "agieval" else "")
    found = list(load(named(name, write_real_rows(tmp_path, BENCHMARKS, name, split), split=split)))
    assert len(found) == len(rows)
    for question, row in zip(found, rows, strict=True):
        assert question.wording == Question("", row["question"], "", "", tuple(row["choices"])).wording
        assert question.choices == tuple(row["choices"])
        # GSM-Hard's answers are floats: digits after the fifteenth are noise.
        stated = f"{float(row['answer']):.15g}" if name == "gsm-hard" else row["answer"]
        assert (question.answer, question.answer_type) == (canonical(stated, row["answer_type"]), row["answer_type"])
        assert question.grade(conclusion(stated), True).outcome == Outcome.CORRECT


def test_every_real_bbh_question_in_hub_layout_loads(tmp_path: Path) -> None:
    rows = real_rows(BENCHMARKS, "bbh")
    by_task: dict[str, list[Question]] = {}
    for question in load(named("bbh", write_real_rows(tmp_path, BENCHMARKS, "bbh"))):
        by_task.setdefault(question.task, []).append(question)
    for task, questions in by_task.items():
        mine = [row for row in rows if row["task"] == task]
        assert len(questions) == len(mine)
        for question, row in zip(questions, mine, strict=True):
            lettered = row["answer_type"] == "choice"
            assert question.choices == (tuple(row["choices"]) if lettered else ())
            assert question.question.startswith(row["question"])
            assert question.answer_type == row["answer_type"]
            assert question.grade(conclusion(row["answer"]), True).outcome == Outcome.CORRECT
    assert len(by_task) == 27


def test_the_list_of_gsm_hard_questions_also_in_gsm8k_is_complete(tmp_path: Path) -> None:
    from pipeline.questions.contamination import identity_digests

    words = {
        name: {
            f"{identity_digests(question)[1]:032x}"[:12]
            for question in load(named(name, write_real_rows(tmp_path, BENCHMARKS, name), split="test"))
        }
        for name in ("gsm8k", "gsm-hard")
    }
    assert words["gsm8k"] & words["gsm-hard"] == set(also_in("gsm-hard"))
    assert len(also_in("gsm-hard")) == 329


def test_every_entry_is_pinned_and_complete() -> None:
    for name, entry in entries().items():
        for fields in [{**entry.source, **own} for own in entry.tasks.values()] or [entry.source]:
            kind = {**fields, "answer_type": "text"}  # `math` comes with grading that knows it
            assert HubSource.model_validate({**kind, "split": next(iter(entry.splits.values()))}).revision, name
        assert entry.citation and entry.licence and entry.about


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "gsm8"}, "'gsm8' is not a known benchmark; did you mean 'gsm8k'"),
        ({"name": "gsm8k"}, "gsm8k has the splits train and test; set split to one of them"),
        ({"name": "commonsense-qa", "split": "test"}, "'test' is not a split of commonsense-qa with answers; use one of train, validation"),
        ({"name": ["gsm8k"]}, "['gsm8k'] is not a known benchmark"),
        ({"name": "bbh", "tasks": ["snark"]}, "'snark' is not a task of bbh; did you mean 'snarks'"),
    ],
)  # fmt: skip
def test_an_invalid_benchmark_name_split_or_task_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        NamedSource.model_validate(fields)


def test_a_set_with_one_split_needs_no_split() -> None:
    assert NamedSource.model_validate({"name": "bbh"}).split == "test"


def test_a_named_source_resolves_to_pinned_parts() -> None:
    source = NamedSource.model_validate({"name": "bbh", "tasks": ["snarks", "navigate"]})
    assert list(source.parts) == ["snarks", "navigate"]
    assert {part.revision for part in source.parts.values()} == {entries()["bbh"].source["revision"]}
    assert NamedSource.model_validate(source.model_dump(mode="json")) == source


def test_only_a_local_folder_has_a_content_digest(tmp_path: Path) -> None:
    here, there = (named("aqua", write_by_hand(tmp_path / place, "aqua"), split="test") for place in ("here", "there"))
    assert content(here) == content(there) is not None
    assert content(NamedSource.model_validate({"name": "aqua", "split": "test"})) is None
    with pytest.raises(QuestionError, match="no such folder"):
        content(named("aqua", tmp_path / "nowhere", split="test"))


def _questions(**fields: Any) -> Questions:
    test = {"name": "dial", "group": "id", "source": {"kind": "miniature", "family": "dial", "split": "test", "count": 2}}
    return Questions.model_validate({"evaluation": [test], **fields})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"kind": "named", "name": "bbh"}, "the authors of BIG-bench ask"),
        ({"kind": "named", "name": "gpqa-diamond"}, "its authors ask"),
        ({"kind": "named", "name": "gsm8k", "split": "test"}, "it is the test split"),
        ({"kind": "hub", "name": "SaylorTwift/bbh", "revision": "0" * 40}, "the authors of BIG-bench ask"),
        ({"kind": "hub", "name": "openai/gsm8k", "split": "test", "revision": "0" * 40}, "it is the test split"),
        ({"kind": "hub", "name": "OpenAI/GSM8K", "split": "train+test[:9]", "revision": "0" * 40}, "it is the test split"),
        ({"kind": "hub", "name": "allenai/ai2_arc", "split": "test", "revision": "0" * 40}, "it is the test split"),
    ],
)
def test_evaluation_only_sources_are_refused_for_training(source: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=f"train.0 is for evaluation only: {reason}"):
        _questions(train=[source])


@pytest.mark.parametrize(("name", "split"), [("openai/gsm8k", "train"), ("someone/new", "test"), ("tau/commonsense_qa", "all")])
def test_other_splits_and_data_sets_are_accepted_for_training(name: str, split: str) -> None:
    source = {"kind": "hub", "name": name, "split": split, "revision": "0" * 40}
    assert _questions(train=[source]).train[0].split == split  # type: ignore[union-attr]


def test_despite_evaluation_only_allows_training() -> None:
    sure = {"kind": "named", "name": "bbh", "despite_evaluation_only": True}
    assert _questions(train=[sure]).train[0].name == "bbh"  # type: ignore[union-attr]


def test_named_sets_use_the_common_folder_unless_they_set_one(tmp_path: Path) -> None:
    train = [{"kind": "named", "name": name, "split": "train"} for name in ("gsm8k", "aqua")]
    train[1]["folder"] = str(tmp_path / "mine")
    found, _ = _questions(train=train, folder=str(tmp_path)).sources()
    assert [source.folder for source in found] == [tmp_path / "gsm8k", tmp_path / "mine"]  # type: ignore[union-attr]


def test_a_folder_of_files_alone_is_a_local_copy_too(tmp_path: Path) -> None:
    copy = write_by_hand(tmp_path, "gsm8k")
    expected = list(load(named("gsm8k", copy, split="test")))
    assert (copy / "main").is_dir(), "or the case says nothing"
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in (copy / "main").iterdir():
        file.rename(plain / file.name)
    assert [item.question for item in load(named("gsm8k", plain, split="test"))] == [item.question for item in expected]


def test_rows_of_another_layout_are_refused_without_columns_that_nobody_can_set(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"problem": "1+1?", "answer": "#### 2"}\n')
    with pytest.raises(QuestionError) as raised:
        list(load(named("gsm8k", tmp_path, split="test")))
    said = str(raised.value)
    assert "no column 'question'" in said
    assert said.endswith(
        "give a copy of that revision as folder, or read these files with kind: file or kind: hub, and columns"
    )
