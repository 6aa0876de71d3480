"""Computes one model's states, losses and answer distributions on the rows of the latent analysis.

There are three kinds of states. (1) Over a rationale's tokens, in every layer: the model's representation of the rationale. (2) At the last
token of the prompt: before any rationale is read, so the same for all rationales of a question. (3) At the answer, at the positions that
predict its tokens: after the whole rationale, which usually has stated the answer already, and after a rationale without its last sentence,
which is the context that L_cons uses. At the answer, the distributions over the vocabulary are compared too.

Axes: B rationales, Q questions, L layers, T tokens, P wanted positions, A answer positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.models import Weights
from pipeline.config.run import RunConfig
from pipeline.model_folders import load_causal_model
from pipeline.student.batch import TokenRow, batch
from pipeline.student.hidden_states import layer_states, span_states
from pipeline.student.objective import jensen_shannon
from pipeline.student.self_check import right_form
from pipeline.student.token_losses import StudentLosses, measured_losses
from stages.experiments.latent.rows import Rows

Floats = NDArray[np.floating]


class AnswerDependence(NamedTuple):
    """States and predicted answers at the answer positions.

    Per question, over pairs of its rationales: mean divergence of the answer distributions, and share of pairs with the same predicted
    answer; nan if no two rationales tokenise the answer alike. Per rationale: whether the most likely answer is correct.
    """

    states_BD: Floats
    divergence_Q: Floats
    alike_Q: Floats
    right_B: Floats


class Reading(NamedTuple):
    """States of one model, its loss on each rationale, and its answers after `whole` and `cut` rationales."""

    rationale_BLD: Floats
    prompt_QD: Floats
    loss_B: Floats
    answers: dict[str, AnswerDependence]


class _Reader(NamedTuple):
    """A loaded model with its padding token, device and batch size."""

    student: Any
    pad: int
    device: torch.device
    at_once: int


def _at_the_answer(reader: _Reader, rows: list[TokenRow]) -> list[tuple[Tensor, Tensor]]:
    """The state (D,) averaged over the positions that predict each row's answer tokens, and log-distributions (A, V) at them."""
    found: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(rows), reader.at_once):
        chunk = rows[first : first + reader.at_once]
        item = batch(chunk, [row.answer for row in chunk], reader.pad)
        tokens_BT = item.tokens_BT.to(reader.device)
        hidden_BTD = reader.student.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        states_PD = hidden_BTD[item.line_P, item.column_P]
        log_PV = torch.log_softmax(reader.student.get_output_embeddings()(states_PD).float(), -1)
        sizes = [len(row.answer_tokens) for row in chunk]
        parts = zip(torch.split(states_PD.float(), sizes), torch.split(log_PV, sizes), strict=True)
        found += [(states_AD.mean(0).cpu(), log_AV) for states_AD, log_AV in parts]
    return found


def _compared(rows: Sequence[TokenRow], log_BAV: Sequence[Tensor]) -> tuple[float, float]:
    """Mean divergence and share of agreement over the pairs of a question's rows that tokenise the answer alike."""
    pairs = [
        (left, right)
        for left, right in combinations(range(len(rows)), 2)
        if rows[left].answer_tokens == rows[right].answer_tokens
    ]
    if not pairs:
        return float("nan"), float("nan")
    divergence = [float(jensen_shannon(log_BAV[left], log_BAV[right])) for left, right in pairs]
    alike = [bool((log_BAV[left].argmax(-1) == log_BAV[right].argmax(-1)).all()) for left, right in pairs]
    return float(np.mean(divergence)), float(np.mean(alike))


def _answers(reader: _Reader, items: list[TokenRow], rows: Rows) -> AnswerDependence:
    """Figures at the answers of `items`, one per rationale (B)."""
    states_BD: list[Tensor] = []
    right_B: list[bool] = []
    pairs_Q: list[tuple[float, float]] = []
    ends = np.searchsorted(rows.question_B, np.arange(len(rows.ids) + 1))
    for first, last in pairwise(ends.tolist()):
        # One question at a time: distributions over a real vocabulary are large.
        mine = items[first:last]
        states, log_BAV = zip(*_at_the_answer(reader, mine), strict=True)
        pairs_Q.append(_compared(mine, log_BAV))
        states_BD += states
        right_B += [log_AV.argmax(-1).tolist() == row.answer_tokens for log_AV, row in zip(log_BAV, mine, strict=True)]
    divergence_Q, alike_Q = np.array(pairs_Q).T
    return AnswerDependence(torch.stack(states_BD).numpy(), divergence_Q, alike_Q, np.array(right_B, np.float64))


@torch.no_grad()
def read(source: Weights, run: RunConfig, rows: Rows, pad: int) -> Reading:
    """Load a model in its training precision, on a GPU if available, and compute all readings."""
    student = load_causal_model(source, torch.bfloat16 if run.training.precision == "bf16" else torch.float32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reader = _Reader(student.to(device).eval(), pad, device, run.synthesis.forward_rows)
    fed = (pad, device, reader.at_once)
    ends = [(len(row.tokens) - 1, len(row.tokens)) for row in rows.prompts]
    form = right_form(student, rows.rationales, pad, "none")
    model = StudentLosses(student, own_head=form.own_head)
    return Reading(
        rationale_BLD=layer_states(student, rows.rationales, *fed).numpy(),
        prompt_QD=span_states(student, rows.prompts, ends, *fed)[:, -1].numpy(),
        loss_B=measured_losses(model, rows.rationales, *fed, run.objective.hardest).numpy(),
        answers={"whole": _answers(reader, rows.rationales, rows), "cut": _answers(reader, rows.contexts, rows)},
    )
