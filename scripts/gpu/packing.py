"""Packed equals padded, forward and backward, and the gradient does not depend on the micro-batches.

The reference is each row alone through the model's own forward, in float64 on the CPU. Every form's loss and gradient are compared with
it, in fp32 (without TF32) and in bfloat16, where a packed form may err at most as much again as the padded one.

Axes: B kept rationales of a micro-batch, N questions, K perspectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config.training import Consistency, Mixture, Training
from pipeline.student.batch import rationale_spans
from pipeline.student.objective import rationale_losses, student_loss
from pipeline.student.token_losses import StudentLosses, losses_of
from pipeline.training.micro_batch import assemble, forward, together
from pipeline.training.step import answer_weights
from pipeline.training.training_set import TrainingSet
from scripts.gpu.part import Options, attempt, options, report
from scripts.gpu.students import ATTENTION, PERSPECTIVES, Shape, copy_of, set_of, student_of
from stages.speed.training import PlainEngine

SHAPE: Final = Shape(256, 512, 4, 4, 2, 1024, 4, 320)
"""Lines of several FlexAttention blocks, head size 64."""
SMALL: Final = Shape(64, 96, 2, 2, 1, 256, 4, 48)
CLOSE: Final = 2e-4
"""Largest relative difference in fp32."""


def _gradient(student: Any) -> Tensor:
    return torch.cat([parameter.grad.flatten().double().cpu() for parameter in student.parameters()])


def _rows(data: TrainingSet) -> list[Any]:
    return [data.row(n, k) for n in range(len(data)) for k in range(PERSPECTIVES)]


def _source(shape: Shape) -> Any:
    """The student whose weights every form gets."""
    return student_of(shape, "eager", torch.device("cpu"), torch.float32)


def _reference(shape: Shape, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Losses of the rows and the gradient of their mean, by the model's own logits."""
    student = _source(shape).double()
    losses = []
    for row in _rows(data):
        tokens_T = torch.tensor(row.tokens)
        logits_TV = student(input_ids=tokens_T[None], use_cache=False).logits[0]
        losses.append(F.cross_entropy(logits_TV[row.start - 1 : -1], tokens_T[row.start :]))
        (losses[-1] / len(_rows(data))).backward()  # type: ignore[no-untyped-call]
    return torch.stack(losses).detach(), _gradient(student)


def _form(shape: Shape, data: TrainingSet, packing: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    student = copy_of(_source(shape), shape, ATTENTION[packing], device, dtype)
    rows = _rows(data)
    questions = [n for n in range(len(data)) for _ in range(PERSPECTIVES)]
    item = together(data, packing, rows, rationale_spans(rows), questions)
    tokens_P = losses_of(StudentLosses(student), item, torch.zeros(0, dtype=torch.long), device).losses_P
    losses = rationale_losses(tokens_P, item.row_P.to(device), len(rows))
    losses.mean().backward()  # type: ignore[no-untyped-call]
    return losses.detach().double().cpu(), _gradient(student)


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _equal_forms(given: Options, shape: Shape) -> None:
    data = set_of(shape, (1, 2), shape.questions)
    losses, gradient = _reference(shape, data)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        padded = 0.0
        for packing in ("none", "rows", *(["flex"] if given.cuda else [])):
            with attempt(f"{packing} {name}"):
                mine, slope = _form(shape, data, packing, given.device, dtype)
                loss_off, slope_off = _difference(mine, losses), _difference(slope, gradient)
                padded = slope_off if packing == "none" else padded
                good = slope_off < (CLOSE if name == "fp32" else 2 * padded + 1e-3)
                report(f"{packing} {name}", good, loss_off=loss_off, gradient_off=slope_off)


def _accumulated(shape: Shape, data: TrainingSet, training: Training, size: int, device: torch.device) -> Tensor:
    """The gradient of MIND's objective, accumulated over micro-batches of `size` questions."""
    student = copy_of(_source(shape), shape, ATTENTION[training.packing], device, torch.float32)
    engine = PlainEngine(StudentLosses(student), clip=1.0)
    index_N = torch.arange(len(data))
    alpha_NK = torch.softmax(-data.base_losses_NK, -1)
    for first in range(0, len(data), size):
        micro = assemble(data, training, index_N, data.mask_NK, range(first, first + size))
        read = forward(engine, micro, 1.0)
        alpha_B, answer_alpha = answer_weights(micro, alpha_NK, device)
        loss = student_loss(
            read.losses_B, alpha_B, read.answer_losses_Q, read.answer_logits, answer_alpha, answer_weight=0,
            consistency_weight=training.consistency.weight, divergence=training.consistency.divergence,
        )  # fmt: skip
        engine.backward(loss.total / len(data), scale_wrt_gas=False)
    return _gradient(engine.module)


def _any_split(given: Options, shape: Shape) -> None:
    data = set_of(shape, (1, 2), shape.questions)
    accumulate: Callable[[str, int], Tensor] = lambda packing, size: _accumulated(  # noqa: E731
        shape, data, _training(packing, shape.questions), size, given.device
    )
    whole = accumulate("none", shape.questions)
    for packing in ("none", "rows", *(["flex"] if given.cuda else [])):
        with attempt(f"micro-batches {packing}"):
            off = max(_difference(accumulate(packing, size), whole) for size in (1, 2, shape.questions))
            report(f"micro-batches {packing}", off < CLOSE, gradient_off=off)


def _training(packing: str, questions: int) -> Training:
    fields = {"questions_per_step": questions, "questions_per_micro_batch": questions, "precision": "fp32", "packing": packing}
    return Training.model_validate({**fields, "mixture": Mixture(beta=0), "consistency": Consistency(weight=1.0)})


def main() -> None:
    """Compare the forms, then the splits."""
    given = options()
    torch.backends.cuda.matmul.allow_tf32 = False
    shape = SMALL if given.tiny else SHAPE
    _equal_forms(given, shape)
    _any_split(given, shape)


if __name__ == "__main__":
    main()
