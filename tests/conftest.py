"""Fixtures shared by the suite: a tokenizer and a random Llama small enough to build anew in every session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.models import build_tokenizer
from tests.support.runs import tree_of

# Read by `datasets` and `transformers` when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mind-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"


settings.register_profile(
    "fast", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("fast")


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a random Llama of two layers and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def teacher() -> Iterator[str]:
    """The URL of a fake teacher that replies at once."""
    from tests.support.fake_teacher import serve

    with serve() as url:
        yield url


@pytest.fixture(scope="session")
def undisturbed_run(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Any]]:
    """A future of a small undisturbed run of every stage, which runs in the background."""
    from tests.support.kill_campaign import CONFIG, run_undisturbed

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(run_undisturbed, CONFIG, tmp_path_factory.mktemp("undisturbed"), teacher)


@pytest.fixture(scope="session")
def undisturbed(undisturbed_run: Future[Any]) -> Path:
    """The root of the undisturbed run."""
    return Path(undisturbed_run.result().root)


@pytest.fixture
def run_tree(tiny_model: Path) -> dict[str, Any]:
    """The configuration of a small but complete run, as plain data."""
    return tree_of(tiny_model)
