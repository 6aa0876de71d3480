"""A model is asked as its stage asks it, with few tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import EngineRefused, QuestionError
from stages.trial.generation import TOKENS, ask, asking_of, loads_alike, question_of
from tests.support.trials import miniature


def test_the_prompt_is_the_stages_own(tmp_path: Path) -> None:
    run = miniature(tmp_path)
    question = question_of(run)
    assert question.id.startswith("miniature/dial/")
    assert asking_of(run, "sampling", question).prompt.startswith("Perspective: formal\nQuestion: ")
    for stage in ("synthesis", "evaluation"):
        assert asking_of(run, stage, question).prompt == f"Question: {question.text}\nSolution:\n"


def test_a_fixed_question_is_asked_if_others_are_on_the_hub_or_missing(tmp_path: Path) -> None:
    rows = f"{{kind: file, path: {tmp_path}/missing.jsonl}}"
    run = miniature(tmp_path, f"questions.train=[{{kind: named, name: gsm8k, split: train}}, {rows}]")
    assert question_of(run).id == "fixed"
    assert "a fixed question" in ask(run, "synthesis").found


@pytest.mark.parametrize("stage", ["sampling", "synthesis", "evaluation"])
def test_the_outcome_says_what_was_seen(tmp_path: Path, stage: str) -> None:
    run = miniature(tmp_path, "sampling.max_tokens=8")
    outcome = ask(run, stage)
    assert outcome.remedy == ""
    assert outcome.found.startswith("loaded in ")
    assert "finish reason " in outcome.found
    assert "\n" not in outcome.found
    if stage == "sampling":
        assert "8 tokens at " in outcome.found
        assert "finish reason length" in outcome.found
    assert not any(tmp_path.iterdir())


def test_a_prompt_without_room_for_an_answer_is_refused_as_in_the_run(tmp_path: Path) -> None:
    run = miniature(tmp_path, "synthesis.engine.max_context=64", f"synthesis.max_tokens={TOKENS}")
    with pytest.raises(QuestionError, match=r"raise engine\.max_context"):
        ask(run, "synthesis")


def test_a_served_teacher_gets_one_request(tmp_path: Path, teacher: str) -> None:
    served = ("teacher={served: true, chat: false}", "sampling.engine.kind=openai", f"sampling.engine.base_url={teacher}")
    run = miniature(tmp_path, *served, "sampling.engine.served_model=simulated")
    assert "finish reason stop" in ask(run, "sampling").found
    with pytest.raises(EngineRefused, match=r"correct engine\.served_model"):
        ask(miniature(tmp_path, *served, "sampling.engine.served_model=other"), "sampling")


def test_engines_differ_by_what_decides_loading(tmp_path: Path) -> None:
    engine = miniature(tmp_path).synthesis.engine
    assert loads_alike(engine, engine.model_copy(update={"batch": 1, "stall_seconds": 1}))
    assert not loads_alike(engine, engine.model_copy(update={"dtype": "bfloat16"}))
    on_cards = engine.model_copy(update={"kind": "vllm"})
    assert not loads_alike(engine, on_cards)
    assert not loads_alike(on_cards, on_cards.model_copy(update={"max_context": 4096}))
