"""Teacher scores: those of each text alone, in the student's tokens, and refused where these differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.models import LocalModel
from pipeline.errors import ConfigError, ModelError
from pipeline.teacher_scores.scores import Given, Scores, check_scores, in_students_words
from pipeline.teacher_scores.transformers_scores import TransformersScores


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> TransformersScores:
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    return TransformersScores(
        network, AutoTokenizer.from_pretrained(tiny_model), LocalModel(path=tiny_model, chat=False), rows=3
    )


TEXTS = st.lists(st.lists(st.integers(4, 200), min_size=1, max_size=12), min_size=1, max_size=7)


@given(TEXTS, st.integers(1, 20))
def test_scores_are_those_of_each_text_alone(
    teacher: TransformersScores, tiny_model: Path, texts: list[list[int]], top_k: int
) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    asked = [Given(f"Question {'1 ' * (n % 3)}:", text) for n, text in enumerate(texts)]
    for one, found in zip(asked, teacher.score(asked, top_k), strict=True):
        prompt = tokenizer(one.prompt)["input_ids"]
        with torch.no_grad():
            logits = network(torch.tensor([[*prompt, *one.text]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)
        np.testing.assert_allclose(found.logprobs_TC, expected.topk(top_k, -1).values, atol=2e-5)
        np.testing.assert_allclose(found.logprobs_TC, expected.gather(-1, torch.tensor(found.ids_TC).long()), atol=2e-5)


def test_the_teachers_end_token_stands_for_the_students() -> None:
    found = Scores(np.array([[7, 2, 5], [9, 7, 1]], np.int32), np.zeros((2, 3), np.float32))
    assert in_students_words(found, (7, 2), 100).ids_TC.tolist() == [[2, 7, 5], [9, 2, 1]]
    assert in_students_words(found, (7, 7), 100) == found


def test_a_likely_token_beyond_the_students_vocabulary_is_refused() -> None:
    found = Scores(np.array([[7]], np.int32), np.zeros((1, 1), np.float32))
    with pytest.raises(ModelError, match="teacher finds token 7 likely, but the student has 7 tokens; lower top_k"):
        in_students_words(found, (1, 1), 7)


def test_another_vocabulary_is_refused_with_a_token_that_differs(tiny_model: Path, tmp_path: Path) -> None:
    student = LocalModel(path=tiny_model, chat=False)
    check_scores(student, student, "synthesis.teacher_top_k", 32)
    with pytest.raises(ConfigError, match=r"100000 likely tokens, but the student has only \d+; lower it"):
        check_scores(student, student, "synthesis.teacher_top_k", 100_000)
    other = shutil.copytree(tiny_model, tmp_path / "other")
    document = json.loads((other / "tokenizer.json").read_text())
    words = document["model"]["vocab"]
    one, two = sorted(words)[40:42]
    words[one], words[two] = words[two], words[one]
    (other / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"different vocabularies of .* for example .* is number"):
        check_scores(LocalModel(path=other, chat=False), student, "synthesis.teacher_top_k", 32)
