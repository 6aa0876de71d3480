"""Worked examples: chosen by ids alone, of the set's answer type first, and shown as turns or as text."""

from __future__ import annotations

import random
from pathlib import Path

from pipeline.config.models import LocalModel, Turns
from pipeline.config.prompts import Prompts
from pipeline.prompt_rendering import WorkedPrompt, messages, prompt_tokens, rendered, stops, stops_with_examples
from pipeline.questions.question import Question
from pipeline.worked_examples import example_pool, examples_for, worked
from tests.support.models import CHAT, build_tokenizer

QUESTIONS = [
    Question(f"q{number}", f"What is {number}?", "A" if number % 3 else "7", "choice" if number % 3 else "number", ("x", "y"))
    for number in range(60)
]


def test_the_order_of_the_training_questions_does_not_matter() -> None:
    plain = examples_for(example_pool(QUESTIONS, 4), {"choice"}, 4)
    shuffled = random.Random(1).sample(QUESTIONS, len(QUESTIONS))
    assert examples_for(example_pool(shuffled, 4), {"choice"}, 4) == plain
    assert len(set(plain)) == 4


def test_fewer_examples_are_the_first_of_more() -> None:
    assert examples_for(example_pool(QUESTIONS, 5), {"number"}, 3) == examples_for(example_pool(QUESTIONS, 3), {"number"}, 3)


def test_questions_of_the_sets_answer_type_come_first() -> None:
    found = examples_for(example_pool(QUESTIONS, 25), {"number"}, 25)
    assert [item.answer_type for item in found] == ["number"] * 20 + ["choice"] * 5
    assert {item.answer_type for item in examples_for(example_pool(QUESTIONS, 5), {"boolean"}, 5)} == {"choice", "number"}


def test_an_example_has_its_own_rationale_and_the_answer_sentence() -> None:
    prompts = Prompts(question="Question: {{ question }}\nSolution:\n")
    plain = Question("q", "What is 3+4?", "7", "number")
    asked = "Question: What is 3+4?\nSolution:\n"
    assert worked(prompts, plain) == (asked, "The answer is \\boxed{7}.")
    solved = Question("q", "What is 3+4?", "7", "number", rationale="Four more than three is 7. The answer is 7.")
    assert worked(prompts, solved) == (asked, "Four more than three is 7. The answer is \\boxed{7}.")


ASKED = WorkedPrompt((("One?", "1."), ("Two?\n", "2.")), "Three?")


def test_a_chat_model_sees_examples_as_earlier_turns(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, chat_template=CHAT)
    turns = Turns(system="Be brief.")
    roles = [(said["role"], said["content"]) for said in messages(ASKED, turns)]
    assert roles == [
        ("system", "Be brief."), ("user", "One?"), ("assistant", "1."), ("user", "Two?\n"), ("assistant", "2."), ("user", "Three?"),
    ]  # fmt: skip
    assert rendered(tokenizer, ASKED, Turns()) == "[user]One?[assistant]1.[user]Two?\n[assistant]2.[user]Three?[ai]"
    assert tokenizer.decode(prompt_tokens(tokenizer, ASKED, Turns())) == rendered(tokenizer, ASKED, Turns())


def test_a_plain_model_reads_examples_as_text_and_stops_where_they_end(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    text = "One?\n1.\n\n\nTwo?\n2.\n\n\nThree?"
    assert ASKED.plain == text
    assert prompt_tokens(tokenizer, ASKED, None) == tokenizer(text)["input_ids"]
    plain, chatty = (LocalModel(path=tmp_path, chat=chat) for chat in (False, True))
    template = "Question: {{ question }}"
    assert stops_with_examples(Prompts(), template, plain) == ("\n\nQuestion:", "\n\n\n")
    assert stops_with_examples(Prompts(), template, chatty) == ()
    own = Prompts(stop=("###",))
    assert stops_with_examples(own, template, plain) == stops(own, template, plain) == ("###",)


def test_special_tokens_in_an_example_are_characters(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, chat_template=CHAT)
    odd = WorkedPrompt((("One<end>?", "1<end>"),), "Two?")
    for turns in (None, Turns()):
        assert tokenizer.eos_token_id not in prompt_tokens(tokenizer, odd, turns)


def test_no_examples_are_the_prompt_itself(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, chat_template=CHAT)
    for turns in (None, Turns()):
        assert prompt_tokens(tokenizer, WorkedPrompt((), "Two?"), turns) == prompt_tokens(tokenizer, "Two?", turns)
