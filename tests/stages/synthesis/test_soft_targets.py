"""Soft targets in a run of the miniature models: measured of every trained token, the same after a kill, and learnt from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import prompt_tokens, rationale_tokens, teacher_prompt
from pipeline.questions.question import from_table
from stages.core.plan import plan
from storage.artifact import Artifact
from storage.store import Store
from tests.support.kill_campaign import (
    CONFIG,
    compare,
    only_artifact,
    overrides,
    start_stage,
    wait_for_end,
    write_stage_config,
)

TOP_K = 8
CHANGES = (
    "sampling.engine={kind: transformers, dtype: float32, max_context: 512}",
    "sampling.questions_per_shard=3",
    "sampling.max_tokens=160",
    f"synthesis.teacher_top_k={TOP_K}",
    "training.soft_targets={share: 0.5}",
    "training.steps=3",
    "training.dev=null",
)


def _run(root: Path, *more: str) -> RunConfig:
    train = "questions.train=[{kind: miniature, family: dial, split: train, count: 6}]"
    return load_config(CONFIG, (*overrides(root, "http://127.0.0.1:9/v1"), *CHANGES, train, *more))


def _run_stages(run: RunConfig, *stages: str, kill: str = "") -> int:
    config, code = write_stage_config(run), 0
    for stage in stages:
        code = wait_for_end(start_stage(stage, config, kill), config)
        assert kill or code == 0, config.with_suffix(".log").read_text()[-3000:]
    return code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run up to its training."""
    root = tmp_path_factory.mktemp("soft")
    _run_stages(_run(root), "questions", "sampling", "synthesis", "training")
    return root


def _synthesis(root: Path) -> Artifact:
    return only_artifact(Store(root), "synthesis")


def test_every_trained_token_has_the_teachers_distribution(whole: Path) -> None:
    run, synthesis = _run(whole), _synthesis(whole)
    assert isinstance(run.teacher, LocalModel)
    tokenizer, teacher = load_tokenizer(run.teacher), load_causal_model(run.teacher, torch.float32)
    questions = {item.id: item for item in from_table(only_artifact(Store(whole), "questions").table("questions"))}
    perspectives = {item.name: item for item in perspectives_of(run)}
    rationales, soft = synthesis.table("rationales").to_pylist(), synthesis.table("soft_targets").to_pylist()
    assert len(rationales) > 15
    for row, found in zip(rationales, soft, strict=True):
        assert (row["question_id"], row["perspective"]) == (found["question_id"], found["perspective"])
        text = rationale_tokens(tokenizer, row["rationale"])
        asked = teacher_prompt(run.prompts, questions[row["question_id"]].text, perspectives[row["perspective"]])
        prompt = prompt_tokens(tokenizer, asked, None)
        with torch.no_grad():
            logits = teacher(torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).topk(TOP_K, -1).values
        np.testing.assert_allclose(np.array(found["logprob_TC"]), expected, atol=1e-4)


def test_the_teacher_finds_its_own_texts_likely(whole: Path) -> None:
    rows = _synthesis(whole).table("soft_targets", ["logprob_TC"]).to_pylist()
    best = np.concatenate([np.array(row["logprob_TC"])[:, 0] for row in rows])
    assert np.exp(best).mean() > 0.8


def test_a_killed_synthesis_has_the_same_soft_targets(whole: Path, tmp_path: Path) -> None:
    run = _run(tmp_path)
    for needed in ("questions", "sampling"):
        shutil.copytree(whole / needed, tmp_path / needed)
    assert _run_stages(run, "synthesis", kill="stages.synthesis - 34 after") != 0
    _run_stages(run, "synthesis")
    compare("synthesis", Store(whole), Store(tmp_path))


def test_the_divergence_falls_and_is_its_share_of_the_loss(whole: Path) -> None:
    steps = only_artifact(Store(whole), "training").table("steps").to_pylist()
    assert 0 < steps[-1]["loss_soft"] < steps[0]["loss_soft"]
    weight = load_config(CONFIG).training.consistency.weight
    for row in steps:
        learnt = 0.5 * row["loss_sft"] + 0.5 * row["loss_soft"]
        assert row["loss"] == pytest.approx(learnt + weight * row["loss_consistency"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("synthesis.teacher_top_k=9", "synthesis"),
        ("training.soft_targets={share: 0.4}", "training"),
        ("training.soft_targets=null", "training"),
        ("training.soft_targets={share: 0.5, divergence: {kind: reverse_kl}}", "training"),
    ],
)
def test_a_change_makes_its_stage_stale_and_none_before(tmp_path: Path, change: str, first: str) -> None:
    plain, changed = plan(_run(tmp_path)), plan(_run(tmp_path, change))
    assert next(name for name in plain if plain[name].fingerprint != changed[name].fingerprint) == first


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("synthesis.teacher_top_k=null",), r"training.soft_targets: there are none; set synthesis.teacher_top_k"),
        (
            ("sampling.engine={kind: openai, base_url: 'http://127.0.0.1:9/v1', served_model: t, batches: true}",),
            "synthesis.teacher_top_k: sampling.engine: the teacher scores given tokens, which only a vLLM server of your own does",
        ),
        (("training.soft_targets={share: 0}",), "training.soft_targets.share"),
        (("training.soft_targets={share: 1, divergence: {kind: jensen_shannon, beta: 1}}",), "divergence.beta"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, changes: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        _run(tmp_path, *changes)


def test_a_student_with_another_vocabulary_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="teacher and student have different vocabularies"):
        plan(_run(tmp_path, f"student={{path: {tiny_model}, chat: false}}"))
