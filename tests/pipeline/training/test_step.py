"""A step's transfers: how often the host would wait for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.config.synthesis import Objective
from pipeline.config.training import Consistency, Mixture, Training
from pipeline.metanet.inertia import InertiaState
from pipeline.metanet.network import MetaNet
from pipeline.student.attention import ROWS
from pipeline.student.token_losses import StudentLosses
from pipeline.training.step import TrainingState, train_step
from stages.speed.training import PlainEngine
from stages.speed.workload import FEATURES, Lengths, make_set

WAITING = {"item", "cpu", "tolist", "numpy", "nonzero", "__bool__", "__float__", "__int__", "bincount"}
"""Operations that read a value of a tensor on the device, or whose result has a size that depends on values."""
QUESTIONS = 8


class OnDevice(Tensor):
    """A tensor that counts as one in a GPU's memory; what is computed from it is one as well, until it is copied to the host."""

    waits: ClassVar[Counter[str]] = Counter()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITING or (name in ("__getitem__", "__setitem__") and _reads_values(args[1])):
            cls.waits[name] += 1
        found = super().__torch_function__(func, types, args, kwargs or {})
        return found.as_subclass(Tensor) if name == "cpu" else found


def _reads_values(index: Any) -> bool:
    """Whether an index is a mask, or a list that has to be copied to the device."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) or (isinstance(part, Tensor) and part.dtype == torch.bool) for part in parts)


class _DeviceEngine(PlainEngine):
    """Plain PyTorch whose inputs and outputs count as tensors on a device."""

    def __call__(self, *inputs: Any) -> Any:
        return super().__call__(*(_on_device(part) for part in inputs))


def _on_device(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.as_subclass(OnDevice)
    if isinstance(part, tuple):
        moved = [_on_device(item) for item in part]
        return type(part)(*moved) if hasattr(part, "_fields") else tuple(moved)
    return part


def _state(packing: str, questions_per_micro_batch: int, questions: int = QUESTIONS) -> TrainingState:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True, attn_implementation=ROWS if packing == "rows" else None,
    )  # fmt: skip
    training = Training.model_validate(
        {
            "questions_per_step": questions, "questions_per_micro_batch": questions_per_micro_batch, "precision": "fp32",
            "zero_stage": 1, "packing": packing, "mixture": Mixture(beta=0.9), "consistency": Consistency(), "probe_every": 1,
        }
    )  # fmt: skip
    data = make_set(questions, 8, Lengths(12, 24), 256)
    metanet = MetaNet(8, FEATURES, 16, 2)
    optimizer = torch.optim.AdamW(metanet.parameters())
    engine = _DeviceEngine(StudentLosses(Qwen2ForCausalLM(shape)), clip=1.0)
    inertia = InertiaState.empty(*data.mask_NK.shape)
    return TrainingState(training, Objective(hardest=0.5), data, engine, metanet, optimizer, inertia, 0, 0, 1)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    OnDevice.waits = Counter()
    yield OnDevice.waits


def _waits(packing: str, questions_per_micro_batch: int, questions: int = QUESTIONS) -> Counter[str]:
    state = _state(packing, questions_per_micro_batch, questions)
    with counted() as waits:
        train_step(state, 0)
    return waits


@pytest.mark.parametrize("packing", ["rows", "none"])
def test_the_host_waits_once_a_step_whatever_its_size(packing: str) -> None:
    assert _waits(packing, QUESTIONS) == _waits(packing, 2) == _waits(packing, 4, 4) == {"cpu": 1}


def test_a_wait_is_seen() -> None:
    tensor = torch.ones(3).as_subclass(OnDevice)
    with counted() as waits:
        float(tensor.sum())
        tensor[tensor > 0].tolist()
        tensor[[0, 1]].cpu()
    assert waits == {"__float__": 1, "__getitem__": 2, "tolist": 1, "cpu": 1}
