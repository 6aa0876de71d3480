"""A training step: how often the host would wait for a GPU, the rates of both optimisers, MetaNet's updates, and probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.config.synthesis import MetaNetShape, Objective
from pipeline.config.training import Consistency, Mixture, Training
from pipeline.metanet.inertia import InertiaState, observe
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import metanet_optimizer
from pipeline.parameter_groups import parameter_groups
from pipeline.student.attention import ROWS
from pipeline.student.token_losses import StudentLosses, measured_losses
from pipeline.training.step import TrainingState, choose, metanet_step, train_step
from pipeline.training.training_set import questions_of_step
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


def _state(
    packing: str,
    questions_per_micro_batch: int,
    questions: int = QUESTIONS,
    engine: type[PlainEngine] = _DeviceEngine,
    dropout: float = 0.0,
    **fields: Any,
) -> TrainingState:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True, attn_implementation=ROWS if packing == "rows" else None, attention_dropout=dropout,
    )  # fmt: skip
    training = Training.model_validate(
        {
            "questions_per_step": questions, "questions_per_micro_batch": questions_per_micro_batch, "precision": "fp32",
            "zero_stage": 1, "packing": packing, "mixture": Mixture(beta=0.9), "consistency": Consistency(), "probe_every": 1, **fields,
        }
    )  # fmt: skip
    data = make_set(questions, 8, Lengths(12, 24), 256)
    metanet = MetaNet(8, FEATURES, MetaNetShape(width=16, heads=2))
    optimizer = metanet_optimizer(metanet, training.metanet_rate)
    made = engine(StudentLosses(Qwen2ForCausalLM(shape)), clip=1.0)
    inertia = InertiaState.empty(*data.mask_NK.shape)
    observe(inertia, training.inertia, torch.arange(len(data)), data.base_losses_NK, data.mask_NK)
    return TrainingState(training, Objective(hardest=0.5), data, made, metanet, optimizer, inertia, 0, 0, 1)


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


def test_both_rates_keep_their_ratio_along_the_schedule() -> None:
    fields = {"steps": 12, "warm_up": 0.25, "learning_rate": 1e-3, "metanet_rate": 4e-4, "weight_decay": 0.1}
    state = _state("rows", QUESTIONS, engine=PlainEngine, **fields)
    state.engine.optimizer = torch.optim.AdamW(parameter_groups(state.engine.module, 0.1))
    rates = []
    for step in range(12):
        log = train_step(state, step)
        rates.append(log["learning_rate"])
        assert log["metanet_learning_rate"] == pytest.approx(0.4 * log["learning_rate"])
        for optimizer, rate in (
            (state.engine.optimizer, "learning_rate"),
            (state.metanet_optimizer, "metanet_learning_rate"),
        ):
            assert {group["lr"] for group in optimizer.param_groups} == {log[rate]}
            assert len(optimizer.param_groups) == 2
    assert rates[0] < rates[2] == max(rates) > rates[-1]


def _metanet_after(steps: int, accumulation: int, taken: int) -> list[Tensor]:
    """MetaNet's parameters at the start and after each of `taken` steps."""
    state = _state("rows", QUESTIONS, engine=PlainEngine, steps=steps, metanet_accumulation=accumulation)
    found = [torch.nn.utils.parameters_to_vector(state.metanet.parameters()).detach().clone()]
    for step in range(taken):
        metanet_step(state, questions_of_step(step, len(state.data), QUESTIONS, 0), step)
        found.append(torch.nn.utils.parameters_to_vector(state.metanet.parameters()).detach().clone())
    return found


def test_the_last_step_updates_metanet_with_what_was_accumulated() -> None:
    found = _metanet_after(steps=6, accumulation=4, taken=6)
    moved = [not torch.equal(one, other) for one, other in pairwise(found)]
    assert moved == [False, False, False, True, False, True]


def test_a_short_last_update_is_the_mean_over_its_steps() -> None:
    short, whole = _metanet_after(2, 4, 2)[-1], _metanet_after(2, 2, 2)[-1]
    assert torch.equal(short, whole)


def test_probes_measure_without_dropout_and_training_goes_on_with_it() -> None:
    state = _state("none", 4, engine=PlainEngine, dropout=0.5, mixture=Mixture(beta=1.0))
    module = state.engine.module.train()
    index_Q = questions_of_step(0, len(state.data), QUESTIONS, 0)
    kept_QK = choose(state, index_Q, 0).kept_QK
    pairs = [(q, k) for q in range(QUESTIONS) for k in range(8)]
    rows = [state.data.row(int(index_Q[q]), k) for q, k in pairs]
    module.eval()
    exact_QK = measured_losses(module, rows, state.data.pad, state.engine.device, 8, state.objective.hardest).view(-1, 8)
    module.train()
    train_step(state, 0)
    seen_QK = state.inertia.last_NK[index_Q]
    assert module.training
    assert all(part.training for part in module.modules())
    assert torch.allclose(seen_QK[~kept_QK], exact_QK[~kept_QK], rtol=1e-4)
    assert not torch.allclose(seen_QK[kept_QK], exact_QK[kept_QK], rtol=1e-4), "the student has no dropout to test with"


def test_the_shortest_rationale_of_a_question_is_chosen() -> None:
    state = _state("none", 2, mixture=Mixture(weights="shortest", beta=1.0, min_kept=1, min_effective=1.0, draw=1))
    state.data.mask_NK[0, :3] = False
    index_Q = torch.arange(len(state.data))
    kept_QK = choose(state, index_Q, 0).kept_QK
    for n in range(len(state.data)):
        lengths = {k: len(state.data.row(n, k).tokens) for k in state.data.mask_NK[n].nonzero()[:, 0].tolist()}
        (k,) = kept_QK[n].nonzero()[:, 0].tolist()
        assert lengths[k] == min(lengths.values())


@pytest.mark.parametrize("packing", ["none", "rows"])
def test_the_log_counts_the_tokens_that_pass_the_network(packing: str) -> None:
    state = _state(packing, 2, engine=PlainEngine, mixture=Mixture(beta=1.0))
    seen: Counter[bool] = Counter()

    def count(_module: Any, given: tuple[Tensor, ...], _found: Tensor) -> None:
        seen[torch.is_grad_enabled()] += given[0].numel()

    state.engine.module.student.get_input_embeddings().register_forward_hook(count)
    log = train_step(state, 0)
    assert (log["tokens_passed"], log["tokens_probed"]) == (seen[True], seen[False])
    assert log["tokens_probed"] > 0
    assert log["tokens_passed"] > log["tokens"]
