"""On-policy distillation: the student's own texts with the teacher's scores, the same after a kill and on two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.model_folders import load_causal_model, load_tokenizer
from stages.core.plan import plan
from storage.artifact import Artifact
from storage.store import Store
from tests.support.kill_campaign import (
    CONFIG,
    compare,
    copy_inputs,
    only_artifact,
    overrides,
    start_stage,
    wait_for_end,
    write_stage_config,
)

ON_POLICY = "training.on_policy={share: 0.5, every: 2, texts: 2, max_tokens: 24, top_k: 8, engine: {kind: transformers, dtype: float32}}"


def _run(root: Path, *more: str) -> RunConfig:
    changes = (ON_POLICY, "training.dev=null", "training.steps=6", "training.checkpoint_every=3", "training.ranks=1")
    return load_config(CONFIG, (*overrides(root, "http://127.0.0.1:9/v1"), *changes, *more))


def _trained(source: Path, run: RunConfig, kill: str = "") -> Artifact:
    """The training of a run that has the inputs of another root."""
    root = Path(run.root)
    if not root.exists():
        copy_inputs(source, root, run, "training")
    config = write_stage_config(run)
    if kill:
        assert wait_for_end(start_stage("training", config, kill), config) != 0
    assert wait_for_end(start_stage("training", config), config) == 0, config.with_suffix(".log").read_text()[-3000:]
    return only_artifact(Store(root), "training")


@pytest.fixture(scope="module")
def training(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _trained(undisturbed, _run(tmp_path_factory.mktemp("own") / "root"))


def _texts(training: Artifact) -> Iterator[dict[str, Any]]:
    yield from training.table("own_texts").to_pylist()


def test_every_question_of_every_step_has_its_texts(training: Artifact) -> None:
    found = [(row["step"], row["question"]) for row in _texts(training)]
    assert sorted(found) == [(step, q) for step in range(6) for q in range(4) for _ in range(2)]


def test_scores_are_the_teachers_of_the_students_own_tokens(training: Artifact) -> None:
    run = _run(training.root)
    assert isinstance(run.teacher, LocalModel)
    tokenizer, teacher = load_tokenizer(run.teacher), load_causal_model(run.teacher, torch.float32)
    for row in _texts(training):
        assert tokenizer.decode(row["tokens"], skip_special_tokens=True) == row["text"]
        with torch.no_grad():
            logits = teacher(torch.tensor([[*row["prompt_tokens"], *row["tokens"]]])).logits[
                0, len(row["prompt_tokens"]) - 1 : -1
            ]
        expected = torch.log_softmax(logits, -1).topk(8, -1).values
        np.testing.assert_allclose(np.array(row["logprob_TC"]), expected, atol=1e-4)


def test_two_texts_of_a_question_differ_and_seeds_repeat_none(training: Artifact) -> None:
    texts = [(row["step"], row["question"], row["text"]) for row in _texts(training)]
    assert len(set(texts)) > 0.8 * len(texts)


def test_the_loss_has_its_share_on_own_texts(training: Artifact) -> None:
    weight = _run(training.root).training.consistency.weight
    for row in training.table("steps").to_pylist():
        recorded = row["loss_sft"] + weight * row["loss_consistency"]
        assert row["loss"] == pytest.approx(0.5 * recorded + 0.5 * row["loss_own"], rel=1e-5)
        assert row["loss_own"] > 0


def test_a_training_killed_within_a_round_goes_on_with_its_texts(undisturbed: Path, training: Artifact, tmp_path: Path) -> None:
    _trained(undisturbed, _run(tmp_path / "root"), kill="stages.training - 14 before")
    compare("training", Store(training.root), Store(tmp_path / "root"))


def test_own_texts_begin_after_their_share_of_the_steps(undisturbed: Path, training: Artifact, tmp_path: Path) -> None:
    late = _trained(undisturbed, _run(tmp_path / "root", ON_POLICY.replace("share: 0.5", "share: 0.5, after: 0.5")))
    assert {row["step"] for row in _texts(late)} == {3, 4, 5}
    rows = late.table("steps").to_pylist()
    weight = _run(training.root).training.consistency.weight
    for row in rows[:3]:
        assert row["loss"] == pytest.approx(row["loss_sft"] + weight * row["loss_consistency"], rel=1e-5)
        assert (row["loss_own"], row["seconds_writing"]) == (0, 0)
    assert all(row["loss_own"] > 0 for row in rows[3:])


def test_two_ranks_write_the_same_texts_and_have_the_same_losses(undisturbed: Path, training: Artifact, tmp_path: Path) -> None:
    two = _trained(undisturbed, _run(tmp_path / "root", "training.ranks=2"))
    written = [sorted((row["step"], row["question"], row["text"]) for row in _texts(of)) for of in (training, two)]
    assert written[0] == written[1]
    for name in ("loss", "loss_own"):
        np.testing.assert_allclose(two.table("steps")[name].to_numpy(), training.table("steps")[name].to_numpy(), rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ("training.on_policy={share: 0.5, engine: {kind: vllm}}",),
            "engine: vLLM would need the memory that the student trains in",
        ),
        (("training.on_policy={share: 0.5, max_tokens: 4096}",), "on_policy.max_tokens 4096: leaves no room for a prompt"),
        (("training.zero_stage=3",), "on_policy: under zero_stage 3 no rank has a whole student to write with"),
        (("training.on_policy={share: 0}",), "on_policy.share"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, changes: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        _run(tmp_path, *changes)


@pytest.mark.parametrize("change", ["temperature=0.5", "every=3", "top_k=9", "texts=1", "divergence.kind=forward_kl"])
def test_a_change_makes_the_training_stale_and_nothing_before(tmp_path: Path, change: str) -> None:
    plain, changed = plan(_run(tmp_path)), plan(_run(tmp_path, f"training.on_policy.{change}"))
    assert next(name for name in plain if plain[name].fingerprint != changed[name].fingerprint) == "training"
