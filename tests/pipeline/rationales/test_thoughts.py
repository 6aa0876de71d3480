"""A training text has no thought or exactly one, well formed, whatever teacher and template do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.models import LocalModel, Turns
from pipeline.errors import ModelError
from pipeline.model_thoughts import ThoughtForm, thought_form
from pipeline.prompt_rendering import prompt_tokens, rendered
from pipeline.rationales.curation import first_right, without_thoughts
from pipeline.rationales.thoughts import END, START, fitted
from pipeline.training.training_set import answer_row, context_row, make_row
from tests.support.models import build_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[ai]END{% endif %}"
ENDS = {
    "free": "",
    "opened": "<think>\n",
    "closed": "<think>\n\n</think>\n\n",
    "switched": "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}",
}
SAID = {
    "a thought": "<think>\nIs it 8? No.\n</think>\n\nAdding gives 7. The answer is \\boxed{7}.",
    "a thought that its own template opened": "Is it 8? No.\n</think>\n\nAdding gives 7. The answer is \\boxed{7}.",
    "two thoughts": "<think>8?</think>No.<think>6?</think>\n\nAdding gives 7. The answer is \\boxed{7}.",
    "an empty thought": "<think>\n\n</think>\n\nAdding gives 7. The answer is \\boxed{7}.",
    "a second thought that never ends": "<think>8?</think>\n\nAdding gives 7. The answer is \\boxed{7}.<think>Or 9? \\boxed{9}",
    "no thought": "Adding gives 7. The answer is \\boxed{7}.",
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        name: build_tokenizer(tmp_path_factory.mktemp(name), chat_template=TEMPLATE.replace("END", end))
        for name, end in ENDS.items()
    }


def concluded(said: str, thoughts: str) -> str:
    sample = {"question_id": "q", "perspective": "p", "sample_index": 0, "outcome": "correct", "text": said, "gold": "7"}
    return first_right([sample], ["p"], thoughts)["q"]["p"]


def pairs(text: str) -> int:
    """The number of thoughts; fails unless every mark has its partner."""
    marks = [mark for mark in text.replace(START, "\0S\0").replace(END, "\0E\0").split("\0") if mark in ("S", "E")]
    assert marks == ["S", "E"] * (len(marks) // 2), text
    return len(marks) // 2


@pytest.mark.parametrize("thoughts", ["drop", "keep"])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("name", ["free", "opened", "closed"])
def test_a_row_has_no_thought_or_one_well_formed(tokenizers: dict[str, Any], name: str, said: str, thoughts: str) -> None:
    tokenizer, turns = tokenizers[name], Turns()
    form = thought_form(tokenizer, LocalModel(path=Path("student")))
    assert form.before == name
    kept = thoughts == "keep" and said.partition(END)[0].replace(START, "").strip() != "" and END in said
    if name == "closed" and kept:
        with pytest.raises(ModelError, match=r"synthesis.thoughts: keep.*; set thoughts to drop, or correct student\.turns"):
            fitted(concluded(said, thoughts), form)
        return
    text = fitted(concluded(said, thoughts), form)
    prompt = prompt_tokens(tokenizer, "3+4?", turns)
    for make in (make_row, context_row):
        row = make(tokenizer, prompt, text, "7", 512, "here")
        whole = tokenizer.decode(row.tokens)
        assert pairs(whole) == (1 if name != "free" or kept else 0)
        assert tokenizer.decode(row.tokens[slice(*row.answer)]).strip() == "7"
        assert without_thoughts(whole).endswith("The answer is \\boxed{7}.<end>")
    whole = rendered(tokenizer, "3+4?", turns) + text
    assert "Adding gives 7. The answer is" in whole
    assert ("8?" in whole) == kept
    short = answer_row(tokenizer, prompt, "7", 512, "here", form)
    assert pairs(tokenizer.decode(short.tokens)) == (name != "free")


def test_template_arguments_decide_what_the_prompt_does(tokenizers: dict[str, Any]) -> None:
    def before(**fields: Any) -> str:
        return thought_form(tokenizers["switched"], LocalModel(path=Path("student"), **fields)).before

    assert before() == "opened"
    assert before(turns=Turns(template={"enable_thinking": False})) == "closed"
    assert before(chat=False) == "free"


@given(st.text(max_size=40).filter(lambda text: START not in text and END not in text))
def test_a_rationale_without_marks_stays_as_it_is(text: str) -> None:
    assert fitted(text, ThoughtForm("free")) == fitted(text, ThoughtForm("closed")) == text
    assert fitted(text, ThoughtForm("opened")).removeprefix("\n</think>\n\n") == text.lstrip()
    whole = f"<think>\nno\n</think>{text}"
    assert fitted(whole, ThoughtForm("free")) == whole


@given(st.lists(st.sampled_from([START, END, "a", " ", "\n", "b."]), max_size=8).map("".join))
def test_any_marks_become_at_most_one_pair(text: str) -> None:
    assert pairs(fitted(text, ThoughtForm("free"))) <= 1
    assert pairs(START + fitted(text, ThoughtForm("opened"))) == 1


def test_the_marks_of_a_thought_are_tokens_where_the_tokenizer_has_them(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(
        tmp_path, chat_template=TEMPLATE.replace("END", ENDS["opened"]), extra_special_tokens=[START, END]
    )
    text = fitted("No end <end> yet. The answer is \\boxed{7}.", ThoughtForm("opened"))
    row = make_row(tokenizer, prompt_tokens(tokenizer, "What is <think>?", Turns()), text, "7", 512, "here")
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    assert (row.tokens.count(start), row.tokens.count(end), row.tokens.count(tokenizer.eos_token_id)) == (1, 1, 1)
    assert row.tokens.index(start) < row.start <= row.tokens.index(end)


@pytest.mark.parametrize("custom", [None, ("<plan>", "</plan>")])
def test_a_student_is_trained_on_its_own_marks(tmp_path: Path, custom: tuple[str, str] | None) -> None:
    start, end = custom or ("[THINK]", "[/THINK]")
    tokenizer = build_tokenizer(tmp_path, chat_template=TEMPLATE.replace("END", ""), extra_special_tokens=[start, end])
    form = thought_form(tokenizer, LocalModel(path=Path("student"), thought_marks=custom))
    assert form == ThoughtForm("free", (start, end))
    text = fitted(concluded(SAID["a thought"], "keep"), form)
    assert text == f"{start}\nIs it 8? No.\n{end}\n\nAdding gives 7. The answer is \\boxed{{7}}."
    row = make_row(tokenizer, prompt_tokens(tokenizer, f"What is {start}?", Turns()), text, "7", 512, "here", form.marks)
    first, last = tokenizer.convert_tokens_to_ids([start, end])
    assert (row.tokens.count(first), row.tokens.count(last)) == (1, 1)
    assert row.tokens.index(first) == row.start
