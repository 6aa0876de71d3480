from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.models import LocalModel, Turns
from pipeline.config.prompts import Prompts
from pipeline.errors import ConfigError, ModelError
from pipeline.perspectives.perspective import load_perspectives
from pipeline.prompt_rendering import check_prompts, prompt_tokens, rationale_tokens, render, student_prompt, teacher_prompt
from pipeline.questions.question import Question
from tests.support.models import CHAT, build_tokenizer

QUESTION = Question("q", "Which flies?", "B", "choice", ("cat", "crow"))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that adds its BOS token itself and whose chat template writes it too."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(tmp_path_factory.mktemp("chatty"), bos_token="<begin>", chat_template=CHAT)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", tokenizer.bos_token_id)]
    )
    return tokenizer


@given(st.text(), st.text())
def test_a_template_inserts_values_unchanged(question: str, instruction: str) -> None:
    assert render("{{ question }}|{{ instruction }}\n", question=question, instruction=instruction) == (
        f"{question}|{instruction}\n"
    )


def test_an_unknown_template_name_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match="'qestion' is undefined; it may use instruction, question"):
        render("{{ qestion }}", question="?", instruction="!")


@pytest.mark.parametrize(
    "template",
    [
        "{{ question",
        "{% for %}",
        "{{ question.__class__ }}",
        "{{ question.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ question['__class__'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(question) }}",
    ],
)
def test_an_invalid_or_unsafe_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="prompts: template"):
        render(template, question="?")


@pytest.mark.parametrize(
    "template", ["{{ question / 2 }}", "{{ 1 // 0 }}", "{{ range(10 ** 9) | list }}", "{% include '/etc/passwd' %}"]
)
def test_a_template_that_fails_during_rendering_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="prompts: template"):
        render(template, question="?")


def test_both_templates_are_checked_up_front(tiny_model: Path) -> None:
    perspectives, reader = load_perspectives(None), LocalModel(path=tiny_model)
    check_prompts(Prompts(), perspectives, reader)
    with pytest.raises(ConfigError, match="it may use question"):
        check_prompts(Prompts(question="{{ instruction }}"), perspectives, reader)
    with pytest.raises(ConfigError, match="it may use instruction, perspective, question"):
        check_prompts(Prompts(perspective="{{ description }}"), perspectives, reader)
    with pytest.raises(ConfigError, match=r"prompts\.question: '<end>' would be read as text"):
        check_prompts(Prompts(question="{{ question }}<end>"), perspectives, reader)


def test_the_student_sees_the_choices_and_never_the_perspective() -> None:
    perspective = load_perspectives(None)[0]
    assert "(B) crow" in student_prompt(Prompts(), QUESTION)
    assert perspective.instruction not in student_prompt(Prompts(), QUESTION)
    assert perspective.instruction in teacher_prompt(Prompts(), QUESTION.text, perspective)


def test_chat_without_a_chat_template_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"has no chat template; if the model takes plain text, set chat: false"):
        prompt_tokens(tiny_tokenizer, "hello", Turns())


@pytest.mark.parametrize("turns", [Turns(), None])
def test_a_prompt_begins_with_exactly_one_bos_token(chatty: Any, turns: Turns | None) -> None:
    assert chatty(chatty.bos_token)["input_ids"] == [chatty.bos_token_id] * 2, "a careless caller would get two"
    tokens = prompt_tokens(chatty, "hello", turns)
    assert tokens[0] == chatty.bos_token_id
    assert tokens.count(chatty.bos_token_id) == 1


def test_a_chat_prompt_ends_with_the_generation_prompt(chatty: Any) -> None:
    assert chatty.decode(prompt_tokens(chatty, "hello", Turns())) == "<begin>[user]hello[ai]"


def test_turns_set_the_system_turn_and_template_arguments(chatty: Any) -> None:
    def prompt(turns: Turns) -> str:
        return str(chatty.decode(prompt_tokens(chatty, "hello", turns)))

    assert prompt(Turns(system="Be brief.")) == "<begin>[system]Be brief.[user]hello[ai]"
    assert prompt(Turns(template={"enable_thinking": False})) == "<begin>[user]hello[ai][no thoughts]"
    assert prompt(Turns(template={"enable_thinking": True})) == "<begin>[user]hello[ai]"


def test_a_chat_template_that_raises_is_refused(chatty: Any) -> None:
    with pytest.raises(ModelError, match=r"rejects the prompt \(not here\); correct turns"):
        prompt_tokens(chatty, "hello", Turns(template={"shout": True}))


@given(parts=st.lists(st.sampled_from(["<begin>", "<end>", "<pad>", "<", "end>", " so ", "7"]), max_size=6))
@pytest.mark.parametrize("turns", [Turns(), None])
def test_special_tokens_in_data_are_characters(chatty: Any, parts: list[str], turns: Turns | None) -> None:
    text = "".join(parts)
    prompt = prompt_tokens(chatty, f"[{text}]", turns)
    assert [chatty.decode(prompt)] == [f"<begin>[user][{text}][ai]" if turns else f"<begin>[{text}]"]
    assert set(prompt) & set(chatty.all_special_ids) == {chatty.bos_token_id}
    assert prompt.count(chatty.bos_token_id) == 1
    *rationale, end = rationale_tokens(chatty, text)
    assert chatty.decode(rationale) == text
    assert not set(rationale) & set(chatty.all_special_ids), "an end inside a rationale would teach to stop before the answer"
    assert end == chatty.eos_token_id


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_rationale_has_its_own_text_and_one_end_token(chatty: Any, text: str) -> None:
    *tokens, end = rationale_tokens(chatty, text)
    assert end == chatty.eos_token_id
    assert chatty.decode(tokens, skip_special_tokens=False) == text


def test_a_saved_tokenizer_makes_the_same_prompt(chatty: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chatty.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for turns in (Turns(), None):
        assert prompt_tokens(again, "hello", turns) == prompt_tokens(chatty, "hello", turns)
