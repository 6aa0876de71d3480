"""An answer ends before the first stop text, in every engine; without one, base models go on with a next question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.config.prompts import Prompts
from pipeline.generation.engine import Decoding, until
from pipeline.generation.open_engine import open_engine
from pipeline.prompt_rendering import stops
from tests.support.fake_teacher import serve

MARK = "\n\nQuestion:"


@given(st.text("ab"), st.lists(st.sampled_from(["a", "ab", "bb", "aab"]), max_size=3))
def test_a_text_is_cut_before_its_first_stop_text(text: str, stop: list[str]) -> None:
    kept = until(text, stop)
    assert text.startswith(kept)
    assert not any(mark in kept for mark in stop)
    assert kept == text or any(text[len(kept) :].startswith(mark) for mark in stop)


@pytest.mark.parametrize(
    ("template", "expected"),
    [("Question: {{ question }}\nSolution:\n", (MARK,)), ("Q: 1+1?\nA: 2.\n\nProblem: {{ question }}\nA:", ("\n\nProblem:",)),
     ("{{ question }}\nSolution:", ()), ("Q\n{% if question %}{{ question }}{% endif %}", ())],
)  # fmt: skip
def test_the_words_before_the_question_end_an_answer_of_a_model_that_takes_plain_text(
    tmp_path: Path, template: str, expected: tuple[str, ...]
) -> None:
    assert stops(Prompts(), template, LocalModel(path=tmp_path, chat=False)) == expected
    assert stops(Prompts(), template, LocalModel(path=tmp_path, chat=True)) == ()
    for chat in (False, True):
        assert stops(Prompts(stop=()), template, LocalModel(path=tmp_path, chat=chat)) == ()
        assert stops(Prompts(stop=("###",)), template, LocalModel(path=tmp_path, chat=chat)) == ("###",)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty text would end every answer"):
        Prompts(stop=("",))


def test_the_transformers_engine_ends_an_answer_at_a_stop_text_and_leaves_others_alone(tiny_model: Path) -> None:
    config = EngineConfig.model_validate({"kind": "transformers", "dtype": "float32", "max_context": 512, "batch": 4})
    prompts, seeds = [f"Item {n}:" for n in range(6)], list(range(6))
    decoding = Decoding(1.0, 1.0, 40)
    with open_engine(config, LocalModel(path=tiny_model, chat=False)) as engine:
        free = engine.generate(prompts, seeds, decoding)
        stop = free[0].text[10:12]
        assert stop, "or the case says nothing"
        stopped = engine.generate(prompts, seeds, replace(decoding, stop=(stop, "\ue000")))
    for one, other in zip(free, stopped, strict=True):
        assert other.text == until(one.text, [stop])
        if stop in one.text:
            assert other.finish_reason == "stop"
            assert other.completion_tokens < one.completion_tokens or one.text.endswith(stop)
        else:
            assert other == one
    assert stopped[0].text == free[0].text[: free[0].text.find(stop)]


def test_a_server_is_given_the_stop_texts_and_may_ignore_them() -> None:
    def write(prompt: str, seed: int) -> str:
        return f"It is 13.{MARK} Another?"

    with serve(write) as url:
        config = EngineConfig.model_validate({"kind": "openai", "base_url": url, "served_model": "simulated"})
        with open_engine(config, LocalModel(path=Path("unused"), chat=False)) as engine:
            (cut,) = engine.generate(["Q"], [0], Decoding(0.0, 1.0, 64, stop=(MARK,)))
            (whole,) = engine.generate(["Q"], [0], Decoding(0.0, 1.0, 64))
    assert (cut.text, cut.finish_reason) == ("It is 13.", "stop")
    assert whole.text == f"It is 13.{MARK} Another?"
