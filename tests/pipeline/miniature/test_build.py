"""Builds the shipped miniature recipes: a few steps of each, at full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.run import load_config
from pipeline.miniature.build import build_tokenizer, corpus, load_recipe, model_card, save, train_model
from pipeline.miniature.styles import RING_STYLES, leaps

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = ["miniature-build.yaml", "miniature-gpu-build.yaml"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One tokenizer for all recipes, since their teachers see the same texts."""
    return build_tokenizer(load_recipe(CONFIGS / RECIPES[0]))


@pytest.mark.parametrize("model", ["teacher", "student"])
@pytest.mark.parametrize("name", RECIPES)
def test_transformers_loads_a_model_built_in_two_steps(name: str, model: str, tokenizer: Any, tmp_path: Path) -> None:
    recipe = load_recipe(CONFIGS / name)
    short = getattr(recipe, model).model_copy(update={"steps": 2, "batch": 2})
    made = train_model(recipe, short, tokenizer, lambda line: None)
    save(tmp_path, made, tokenizer, model_card(model, short, made, {}))
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert network.config.hidden_size == short.shape.hidden
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == network.config.vocab_size
    assert f"{network.num_parameters():,} parameters" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_only_the_teacher_corpus_has_leaps_and_thoughts(name: str) -> None:
    recipe = load_recipe(CONFIGS / name)
    for _, (_, text) in zip(range(300), corpus(recipe, recipe.student), strict=False):
        assert "think" not in text
        assert not text.startswith("Roughly")
    thoughts = sum("<think>" in text for _, (_, text) in zip(range(300), corpus(recipe, recipe.teacher), strict=False))
    assert 60 < thoughts < 240
    assert any(leaps(style, "dial") for style in RING_STYLES)


def test_the_gpu_configuration_matches_the_gpu_recipe() -> None:
    run = load_config(CONFIGS / "miniature-gpu.yaml")
    recipe = load_recipe(CONFIGS / "miniature-gpu-build.yaml")
    assert (run.prompts.question, run.prompts.perspective) == (recipe.question_template, recipe.perspective_template)
    assert run.teacher.path is not None and run.teacher.path.name == "teacher"
