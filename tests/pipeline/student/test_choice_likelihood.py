"""Likelihoods of choices: those of a plain forward pass with lm-eval's tokens, whatever the packing and the order of the choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.models import LocalModel
from pipeline.errors import QuestionError
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prompt_rendering import pad_token
from pipeline.questions.question import Question
from pipeline.student.choice_likelihood import (
    NORMS,
    ChoiceRows,
    Likelihoods,
    choice_rows,
    choices_of,
    likelihoods,
    right_choice,
)
from pipeline.student.self_check import right_form
from stages.shared.further_measurements import CHOSEN
from stages.shared.further_measurements import NORMS as TITLED
from tests.support.models import build_tokenizer

CONTEXT = "Question: A dial with ten marks reads [7]. Turn it +5, -3. What does it read?\nAnswer:"
CHOICES = ("9", "95", "Solution", "4 marks", "9", "the dial's answer, è ß")
QUESTION = Question("q", "?", "C", "choice", CHOICES)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> tuple[Any, Any]:
    folder = LocalModel(path=tiny_model, chat=False)
    return load_causal_model(folder, "float32").eval(), load_tokenizer(folder)


def measured(network: Any, tokenizer: Any, rows: ChoiceRows, choices: tuple[str, ...], packing: str) -> Likelihoods:
    """In the given packing; the attention implementation is the model's own again afterwards."""
    pad, plain = pad_token(tokenizer), network.config._attn_implementation
    form = right_form(network, rows.conditional_K, pad, packing)  # type: ignore[arg-type]
    assert form.packing == packing
    try:
        return likelihoods(network, form, rows, choices, pad)
    finally:
        network.set_attn_implementation(plain)


def reference(network: Any, tokenizer: Any, context: str, continuation: str) -> tuple[float, int]:
    """Sum and tokens, written after `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens` of lm-eval 0.4.13."""
    if not context:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        said = tokenizer.encode(continuation, add_special_tokens=False)
        before, after = ([first], said) if said[0] != first else (said[:1], said[1:])
    else:
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before = tokenizer.encode(context)
        after = tokenizer.encode(context + continuation)[len(before) :]
    with torch.no_grad():
        logits_TV = network(torch.tensor([(before + after)[:-1]])).logits[0]
    logs_AV = torch.log_softmax(logits_TV, -1)[-len(after) :]
    return float(logs_AV.gather(1, torch.tensor(after)[:, None]).double().sum()), len(after)


@pytest.mark.parametrize("packing", ["rows", "none"])
@pytest.mark.parametrize("context", [CONTEXT, f"{CONTEXT} \n "])
def test_packed_and_padded_choices_equal_each_choice_alone(model: tuple[Any, Any], context: str, packing: str) -> None:
    found = measured(*model, choice_rows(model[1], context, QUESTION), CHOICES, packing)
    expected = [reference(*model, context, f" {choice}") for choice in CHOICES]
    assert found.sum_K == pytest.approx([value for value, _ in expected], abs=1e-5)
    assert found.tokens_K == [tokens for _, tokens in expected]
    assert found.unconditional_K == pytest.approx([reference(*model, "", f" {choice}")[0] for choice in CHOICES], abs=1e-5)
    assert found.characters_K == [len(choice) for choice in CHOICES]


def test_a_beginning_token_is_the_neutral_prefix_and_starts_the_context(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, bos_token="<begin>")
    rows = choice_rows(tokenizer, CONTEXT, QUESTION)
    begin = tokenizer.bos_token_id
    assert all((row.tokens[0], row.start) == (begin, 1) for row in rows.unconditional_K)
    without = choice_rows(build_tokenizer(tmp_path / "without"), CONTEXT, QUESTION)
    assert all(row.tokens[0] == tokenizer.eos_token_id for row in without.unconditional_K)


def test_permuted_choices_permute_their_scores(model: tuple[Any, Any]) -> None:
    order = [3, 0, 5, 1, 4, 2]
    other = Question("q", "?", "A", "choice", tuple(CHOICES[place] for place in order))
    plain, moved = (
        measured(*model, choice_rows(model[1], CONTEXT, question), question.choices, "rows") for question in (QUESTION, other)
    )
    for norm in NORMS:
        assert list(moved.scores(norm)) == pytest.approx([plain.scores(norm)[place] for place in order], abs=1e-5)


def test_each_norm_divides_or_subtracts_what_it_says() -> None:
    found = Likelihoods([-6.0, -8.0, -7.0], [2, 8, 1], [3, 2, 7], [-1.0, -2.5, -9.0])
    assert [found.choice(norm) for norm in NORMS] == [0, 1, 2, 2]
    assert list(found.scores("per_token")) == [-3.0, -1.0, -7.0]
    assert list(found.scores("per_character")) == [-2.0, -4.0, -1.0]
    assert list(found.scores("unconditional")) == [-5.0, -5.5, 2.0]
    assert Likelihoods([-1.0, -1.0], [1, 1], [1, 1], [0.0, 0.0]).choice("sum") == 0, "the first of equal ones"


def test_only_questions_with_choices_or_two_words_are_scored() -> None:
    assert (choices_of(QUESTION), right_choice(QUESTION)) == (CHOICES, 2)
    doubt = Question("q", "?", "no", "boolean")
    assert (choices_of(doubt), right_choice(doubt)) == (("yes", "no"), 1)
    assert choices_of(Question("q", "?", "7", "number")) == ()
    assert choices_of(Question("q", "?", "A", "choice", ("alone",))) == ()


def test_special_tokens_in_a_choice_are_characters(model: tuple[Any, Any]) -> None:
    tokenizer = model[1]
    odd = Question("q", "?", "A", "choice", ("<end>", "9"))
    rows = choice_rows(tokenizer, CONTEXT, odd)
    assert tokenizer.eos_token_id not in rows.conditional_K[0].tokens
    assert tokenizer.eos_token_id not in rows.unconditional_K[0].tokens[1:]


def test_a_choice_without_a_token_is_named() -> None:
    class Nothing:
        bos_token_id, eos_token_id, added_tokens_decoder = 1, 2, {}

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [5], "offset_mapping": [(0, 1)]}

    with pytest.raises(QuestionError, match=r"question 'q': its choice '9' has no token of its own; correct the choice"):
        choice_rows(Nothing(), CONTEXT, QUESTION)  # type: ignore[arg-type]


def test_the_stated_norms_are_those_that_are_measured() -> None:
    assert tuple(TITLED) == NORMS
    assert CHOSEN in NORMS
