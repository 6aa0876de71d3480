"""Fixtures shared by the suite: a tokenizer and a random Llama small enough to build anew in every session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# Read by `datasets` and `transformers` when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mind-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).parents[1]

settings.register_profile(
    "fast", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("fast")

TEXTS = [
    "A dial with ten marks reads [7]. Turn it +5, -3. What does it read?",
    "Question: Solution: 1) 7+5=2. 2) 2-3=9. The answer is \\boxed{9}.",
    "Let x=7. Were +5 left out: 7-3=4. But it counts: 4+5=9. The answer is \\boxed{yes}.",
]


def build_tokenizer(folder: Path, **settings: Any) -> Any:
    """A byte-level BPE tokenizer of about 300 tokens, saved as a transformers folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<end>", "<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>", **settings)
    tokenizer.save_pretrained(folder)
    return tokenizer


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
    """The address of a teacher that answers at once."""
    from tests.support.fake_teacher import serve

    with serve() as url:
        yield url


@pytest.fixture(scope="session")
def finishing(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Any]]:
    """A small run of every stage that nobody disturbs, made while whoever needs it does something else."""
    from tests.support.kill_campaign import CONFIG, peace

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(peace, CONFIG, tmp_path_factory.mktemp("peace"), teacher)


@pytest.fixture(scope="session")
def peaceful(finishing: Future[Any]) -> Path:
    """The root of that run."""
    return Path(finishing.result().root)


@pytest.fixture
def run_tree(tiny_model: Path) -> dict[str, Any]:
    """The text of a small but complete run's configuration, as plain data."""
    return tree_of(tiny_model)


def tree_of(model: Path) -> dict[str, Any]:
    return {
        "name": "small",
        "root": "artifacts",
        "teacher": {"path": str(model), "chat": False},
        "student": {"path": str(model), "chat": False},
        "questions": {
            "train": [{"kind": "miniature", "family": "dial", "split": "train", "count": 12}],
            "evaluation": [
                {"name": name, "group": "id", "use": use, "source": {**source, "split": use}}
                for name, use, source in (
                    ("dial", "test", {"kind": "miniature", "family": "dial", "count": 4, "seed": 1}),
                    ("lift", "test", {"kind": "miniature", "family": "lift", "count": 4, "seed": 1}),
                    ("dial-dev", "dev", {"kind": "miniature", "family": "dial", "count": 4, "seed": 1}),
                )
            ],
        },
        "training": {"questions_per_step": 32, "ranks": 2, "questions_per_micro_batch": 4, "max_length": 512},
    }


def write_config(folder: Path, tree: dict[str, Any], name: str = "run.yaml") -> Path:
    """`tree` as a YAML file in `folder`, keys in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path
