"""Evaluation speed: MIND's vLLM and lm-eval's share one card with equal settings."""

from __future__ import annotations

import pytest
import torch

from pipeline.generation.vllm_engine import llm_settings
from stages.speed import evaluation


def test_each_of_two_engines_takes_less_than_half_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert llm_settings(evaluation._engine("vllm"))["gpu_memory_utilization"] < 0.5
