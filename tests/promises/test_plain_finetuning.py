"""With uniform weights, λ=0 and β=0 MIND equals plain fine-tuning; splitting or packing a step keeps the gradient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.synthesis import MetaNetShape, Objective
from pipeline.config.training import Consistency, Mixture, Training
from pipeline.grading.grade import conclusion
from pipeline.metanet.inertia import InertiaState, observe
from pipeline.metanet.network import MetaNet
from pipeline.student.attention import ROWS
from pipeline.student.token_losses import StudentLosses
from pipeline.training.step import TrainingState, learning_rate, train_step
from pipeline.training.training_set import TrainingSet, context_row, make_row, questions_of_step
from tests.support.training_sets import set_of

QUESTIONS, PERSPECTIVES, FEATURES = 6, 3, 5
MASK = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()


@dataclass
class GatheringEngine:
    """One process without DeepSpeed: gradients accumulate over micro-batches and are never applied."""

    module: StudentLosses
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    optimizer: Any = field(default_factory=lambda: SimpleNamespace(param_groups=[{"lr": 0.0}]))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.module(*inputs)
        return found

    def backward(self, loss: Tensor, scale_wrt_gas: bool = True) -> None:
        assert not scale_wrt_gas
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        pass

    def get_global_grad_norm(self) -> float:
        return float(torch.stack([p.grad.norm() for p in self.module.parameters() if p.grad is not None]).norm())


@pytest.fixture
def student(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation=ROWS)


@pytest.fixture(scope="module")
def data(tiny_tokenizer: Any) -> TrainingSet:
    pairs = {}
    for n, k in MASK.nonzero().tolist():
        prompt = tiny_tokenizer(f"Question: [{n}]{' Turn it' * n}\n")["input_ids"]
        rationale = f"{'So 7+5=2. ' * (k + 1)}Then {n}. {conclusion(str(n))}"
        row, context = (make(tiny_tokenizer, prompt, rationale, str(n), 500, "") for make in (make_row, context_row))
        pairs[n, k] = row, context
    generator = torch.Generator().manual_seed(0)
    features_NKF = torch.randn(QUESTIONS, PERSPECTIVES, FEATURES, generator=generator)
    base_losses_NK = torch.rand(QUESTIONS, PERSPECTIVES, generator=generator)
    return set_of(pairs, features_NKF, MASK, base_losses_NK, pad=0)


def _step(
    student: Any, data: TrainingSet, training: Training, step: int
) -> tuple[dict[str, Any], dict[str, Tensor], TrainingState]:
    """The log of one step, the student's gradient and the training state."""
    student.zero_grad()
    torch.manual_seed(0)
    metanet = MetaNet(PERSPECTIVES, FEATURES, MetaNetShape(width=8, heads=2))
    inertia = InertiaState.empty(QUESTIONS, PERSPECTIVES)
    observe(inertia, training.inertia, torch.arange(QUESTIONS), data.base_losses_NK, data.mask_NK)
    optimizer = torch.optim.AdamW(metanet.parameters(), lr=training.metanet_rate)
    state = TrainingState(
        training, Objective(), data, GatheringEngine(StudentLosses(student)), metanet, optimizer, inertia, 0, 0, 1
    )
    log = train_step(state, step)
    return log, {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}, state


def _plain_loss(student: Any, data: TrainingSet, index: list[int]) -> Tensor:
    """Mean over questions of the mean over rationales of the mean over tokens, one rationale at a time."""
    of_questions = []
    for n in index:
        of_rationales = []
        for k in data.mask_NK[n].nonzero()[:, 0].tolist():
            row = data.row(n, k)
            tokens = torch.tensor(row.tokens)
            logits = student(input_ids=tokens[None]).logits[0]
            of_rationales.append(F.cross_entropy(logits[row.start - 1 : -1], tokens[row.start :]))
        of_questions.append(torch.stack(of_rationales).mean())
    return torch.stack(of_questions).mean()


def _relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    distance = torch.stack([(one[name] - other[name]).norm() for name in one]).norm()
    return float(distance / torch.stack([value.norm() for value in other.values()]).norm())


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_uniform_weights_without_consistency_equal_plain_fine_tuning(
    student: Any, data: TrainingSet, step: int, micro: int
) -> None:
    training = Training(
        questions_per_step=4, questions_per_micro_batch=micro,
        mixture=Mixture(weights="uniform", beta=0), consistency=Consistency(weight=0),
    )  # fmt: skip
    log, gradient, _ = _step(student, data, training, step)
    student.zero_grad()
    loss = _plain_loss(student, data, questions_of_step(step, QUESTIONS, 4, 0).tolist())
    loss.backward()  # type: ignore[no-untyped-call]
    plain = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert log["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert _relative(gradient, plain) < 1e-5


@pytest.mark.parametrize("context", ["full", "before_conclusion"])
@pytest.mark.parametrize("kind", ["ema", "optimizer", "none"])
def test_the_gradient_is_equal_for_any_micro_batch_packed_or_padded(
    student: Any, data: TrainingSet, context: Any, kind: Any
) -> None:
    found = []
    for micro, packs in ((1, False), (2, True), (4, True), (2, False), (4, False)):
        training = Training(
            questions_per_step=4, questions_per_micro_batch=micro, probe_every=1, packing="rows" if packs else "none",
            consistency=Consistency(weight=0.5, answer_context=context), inertia={"kind": kind},
        )  # fmt: skip
        found.append(_step(student, data, training, step=0))
    whole_log, whole, taught = found[-1]
    assert whole_log["loss_consistency"] > 0
    for log, gradient, state in found[:-1]:
        assert log["loss"] == pytest.approx(whole_log["loss"], rel=1e-5)
        assert log["loss_meta"] == pytest.approx(whole_log["loss_meta"], rel=1e-3, abs=1e-6)
        assert log["tokens"] == whole_log["tokens"]
        assert _relative(gradient, whole) < 1e-5
        assert torch.allclose(state.inertia.mean_NK, taught.inertia.mean_NK, atol=1e-5)


@pytest.mark.parametrize("packs", [False, True])
def test_the_answer_task_has_its_weight_in_the_loss(student: Any, data: TrainingSet, packs: bool) -> None:
    whole = replace(data, answers_N5=data.addresses_NK25[:, 2, 0].where(MASK[:, 2:3], data.addresses_NK25[:, 0, 0]))
    found = {}
    for weight in (0.0, 0.25):
        training = Training(
            questions_per_step=4, questions_per_micro_batch=2, answer_weight=weight, packing="rows" if packs else "none",
            mixture=Mixture(weights="uniform", beta=0), consistency=Consistency(weight=0),
        )  # fmt: skip
        found[weight], _, _ = _step(student, whole, training, step=0)
    answers = []
    for n in questions_of_step(0, QUESTIONS, 4, 0).tolist():
        row = whole.answer(n)
        tokens = torch.tensor(row.tokens)
        answers.append(F.cross_entropy(student(input_ids=tokens[None]).logits[0, row.start - 1 : -1], tokens[row.start :]))
    expected = 0.75 * found[0.0]["loss"] + 0.25 * float(torch.stack(answers).mean().detach())
    assert found[0.25]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_dropped_rationales_are_measured_only_in_probe_steps(student: Any, data: TrainingSet, every: int) -> None:
    training = Training(questions_per_step=6, questions_per_micro_batch=2, mixture=Mixture(beta=1), probe_every=every)
    log, _, state = _step(student, data, training, step=1)
    measured_NK = state.inertia.visits_NK == 2
    assert not measured_NK[~MASK].any()
    assert int(measured_NK.sum()) == (int(MASK.sum()) if every == 1 else round(log["kept"] * QUESTIONS))
    assert log["kept"] * QUESTIONS < int(MASK.sum())


def test_the_learning_rate_warms_up_and_decays_to_its_final_rate() -> None:
    training = Training(steps=100, warm_up=0.1, learning_rate=1.0, final_rate=0.1)
    rates = [learning_rate(training, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
