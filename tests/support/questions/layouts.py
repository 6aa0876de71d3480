"""Benchmarks as folders in the hub's layout: a few handwritten rows of each, and rows of the real benchmarks."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.questions.question import Question

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
"""Rows of real benchmarks: whole test sets of GSM8K and GSM-Hard, samples of the others; MANIFEST.json has sources and licences."""
Row = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

BY_HAND: dict[str, dict[str, list[Row]]] = {
    # Name -> file in the hub's repository, without its number and ending -> rows.
    "gsm8k": {
        "main/train": [{"question": "How many legs have 3 dogs?", "answer": "3*4=<<3*4=12>>12.\n#### 12"}],
        "main/test": [{"question": "What do 2 robes of $1,000 cost?", "answer": "2*1000=2000\n#### 2,000"}],
    },
    "math": {
        f"{subject}/{split}": [
            {
                "problem": f"What is half of $\\frac{{1}}{{2}}$, in {subject}, {split}?",
                "level": "Level 1",
                "type": subject.title(),
                "solution": "First $\\boxed{1}$; no: $\\boxed{\\frac{1}{4}}$.",
            }
        ]
        for subject in (
            "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus",
        )
        for split in ("train", "test")
    },
    "math500": {
        "test": [
            {
                "problem": "Convert $(0,3)$ to polar coordinates.",
                "solution": "It is $\\boxed{(3,\\frac{\\pi}{2})}$.",
                "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
                "subject": "Precalculus",
                "level": 2,
                "unique_id": "test/precalculus/807.json",
            }
        ]
    },
    "svamp": {
        "data/test": [
            {"ID": "chal-777", "Body": "There are 87 oranges.", "Question": "How many are left of them?", "Equation": "( 87.0 - 2.0 )",
             "Answer": "85.0", "Type": "Subtraction"}
        ]
    },
    "gsm-hard": {"gsmhardv2": [{"input": "A robe takes 2287720 bolts. How many?", "code": "def solution(): ...", "target": 3431580.0}]},
    "aqua": {
        "raw/test": [{"question": "3 + 18?", "options": ["A)21", "B)21.5", "C)22", "D)22.5", "E)None"], "rationale": "21.", "correct": "A"}]
    },
    "commonsense-qa": {
        "data/validation": [
            {
                "id": "1afa02df02c908a558b4036e80242fac",
                "question": "A revolving door also serves as a security measure at a what?",
                "question_concept": "revolving door",
                "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["bank", "library", "store", "mall", "new york"]},
                "answerKey": "A",
            }
        ]
    },
    "strategy-qa": {
        "data/test": [
            {"qid": "d1a138ecfa13ee277ab4", "term": "x", "question": "Would a dog hear it?", "answer": True, "facts": "x"},
            {"qid": "8157923564915cd3ac47", "term": "x", "question": "Would a cat care?", "answer": False, "facts": "x"},
        ]
    },
    "gpqa-diamond": {
        "gpqa_diamond": [
            {"Record ID": f"rec{n}", "Question": f"Which enzyme, {n}?", "Correct Answer": "B. subtilis\n", "Incorrect Answer 1": "A",
             "Incorrect Answer 2": "C. elegans", "Incorrect Answer 3": "none", "Explanation": "So.", "High-level domain": "Biology"}
            for n in range(8)
        ]
    },
    "bbh": {
        "snarks/test": [{"input": "Which is sarcastic?\nOptions:\n(A) He is kind\n(B) He is (so) kind: A\n", "target": "(B)"}],
        "navigate/test": [{"input": "Do you return?\nOptions:\n- Yes\n- No", "target": "No"}],
        "boolean_expressions/test": [{"input": "not ( True ) and ( True ) is", "target": "False"}],
        "object_counting/test": [{"input": "I have a flute and a piano. How many?", "target": "2"}],
        "formal_fallacies/test": [{"input": "Is it valid?\nOptions:\n- valid \n- invalid", "target": "invalid"}],
        "dyck_languages/test": [{"input": "Complete: [ [", "target": "] ]"}],
    },
    "agieval": {
        f"agieval-{task}/data/test": [
            {
                "query": f"{passage}Q: What is x in {task}? Answer Choices: (A)2 (B)Q: 4\nA: Among A through B, the answer is",
                "choices": ["(A)2", "(B)Q: 4"],
                "gold": [1],
            }
        ]
        for task, passage in (("lsat-ar", "Six. "), ("lsat-lr", ""), ("lsat-rc", "Ago. "), ("sat-en", "Once. "), ("sat-math", ""))
    },
    "arc-easy": {
        "ARC-Easy/test": [
            {"id": "Mercury_417466", "question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
        ]
    },
    "arc-challenge": {
        "ARC-Challenge/test": [
            {"id": "Mercury_7175875", "question": "Which melts?", "choices": {"text": ["ice", "fire", "air"], "label": ["A", "B", "C"]},
             "answerKey": "A"}
        ]
    },
}  # fmt: skip

CARDS = {
    # The part of a card that assigns files to splits if their names do not.
    "gsm-hard": "configs:\n- config_name: default\n  data_files: gsmhardv2*\n",
    "gpqa-diamond": "configs:\n- config_name: gpqa_diamond\n  data_files: gpqa_diamond*\n",
}


def write_layout(folder: Path, files: dict[str, list[Row]], card: str | None = None) -> Path:
    """Writes a folder like a hub repository: Parquet; with a card, CSV for text-only rows and JSON lines otherwise."""
    for name, rows in files.items():
        path = folder / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if card is None:
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif all(isinstance(value, str) for row in rows for value in row.values()):
            with path.with_suffix(".csv").open("w", newline="") as lines:
                writer = csv.DictWriter(lines, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if card is not None:
        (folder / "README.md").write_text(f"---\n{card}---\n# A data set\n")
    return folder


def write_by_hand(folder: Path, name: str) -> Path:
    """Writes the handwritten rows of a benchmark to `folder/name`."""
    return write_layout(folder / name, BY_HAND[name], CARDS.get(name))


def _gsm8k(row: Row) -> tuple[str, Row]:
    return f"main/{row['split']}", {"question": row["question"], "answer": f"{row['rationale']}\n#### {row['answer']}"}


def _svamp(row: Row) -> tuple[str, Row]:
    body, question = row["question"].split(" ", 1)
    answer = {"ID": row["id"].removeprefix("svamp/"), "Answer": f"{float(row['answer'])}", "Type": row["task"]}
    return "data/test", {"Body": body, "Question": question, "Equation": row["rationale"], **answer}


def _gsm_hard(row: Row) -> tuple[str, Row]:
    return "gsmhardv2", {"input": row["question"], "code": "", "target": float(row["answer"])}


def _commonsense_qa(row: Row) -> tuple[str, Row]:
    labels = list(LETTERS[: len(row["choices"])])
    named = {"id": row["id"].removeprefix("commonsenseqa/"), "question": row["question"], "question_concept": ""}
    return f"data/{row['split']}", {**named, "choices": {"label": labels, "text": row["choices"]}, "answerKey": row["answer"]}


def _strategy_qa(row: Row) -> tuple[str, Row]:
    named = {"qid": row["id"].removeprefix("strategyqa/"), "term": "", "description": "", "facts": row["rationale"]}
    return f"data/{row['split']}", {**named, "question": row["question"], "answer": row["answer"] == "yes"}


def _aqua(row: Row) -> tuple[str, Row]:
    options = [f"{letter}){choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False)]
    return "raw/test", {
        "question": row["question"],
        "options": options,
        "rationale": row["rationale"],
        "correct": row["answer"],
    }


def _agieval(row: Row) -> tuple[str, Row]:
    choices = [f"({letter}){choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False)]
    query = f"Q: {row['question']} Answer Choices: {' '.join(choices)}\nA: Among A through {LETTERS[len(choices) - 1]}, the answer is"
    return f"agieval-{row['task']}/data/test", {"query": query, "choices": choices, "gold": [LETTERS.index(row["answer"])]}


def _bbh(row: Row) -> tuple[str, Row]:
    lettered = row["answer_type"] == "choice"
    marks = [f"({letter}) " for letter in LETTERS] if lettered else ["- "] * len(row["choices"])
    options = "\n".join(["\nOptions:", *(mark + choice for mark, choice in zip(marks, row["choices"], strict=False))])
    target = f"({row['answer']})" if lettered else row["answer"].title() if row["answer_type"] == "boolean" else row["answer"]
    return f"{row['task']}/test", {"input": row["question"] + (options if row["choices"] else ""), "target": target}


REAL: dict[str, tuple[str, Callable[[Row], tuple[str, Row]], Callable[[Row], bool]]] = {
    # Name -> folder of the real set, conversion of a row to the hub's layout, and filter for the rows of the named set.
    "gsm8k": ("gsm8k", _gsm8k, lambda row: True),
    "svamp": ("svamp", _svamp, lambda row: True),
    "gsm-hard": ("gsm_hard", _gsm_hard, lambda row: True),
    "commonsense-qa": ("commonsenseqa", _commonsense_qa, lambda row: True),
    "strategy-qa": ("strategyqa", _strategy_qa, lambda row: True),
    "aqua": ("agieval", _aqua, lambda row: row["task"] == "aqua-rat"),
    "agieval": ("agieval", _agieval, lambda row: row["task"] not in ("aqua-rat", "math")),
    "bbh": ("bbh", _bbh, lambda row: True),
}


def real_rows(shared: Path, name: str, split: str | None = None) -> list[Row]:
    """Rows of the real benchmark, unchanged."""
    folder, _, wanted = REAL[name]
    files = [path for path in sorted((shared / folder).glob("*.parquet")) if path.stem != "rationales"]
    every = (row for path in files for row in pq.read_table(path).to_pylist())
    return [row for row in every if wanted(row) and split in (None, row["split"])]


def write_real_rows(folder: Path, shared: Path, name: str, split: str | None = None) -> Path:
    """Writes the real benchmark in the hub's layout to `folder/name`."""
    files: dict[str, list[Row]] = defaultdict(list)
    for row in real_rows(shared, name, split):
        file, turned = REAL[name][1](row)
        files[file].append(turned)
    return write_layout(folder / name, files, CARDS.get(name))


def right_choices(questions: Iterable[Question]) -> list[str]:
    """The texts of the right choices."""
    return [question.choices[LETTERS.index(question.answer)] for question in questions]
