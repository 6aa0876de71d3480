"""A student's loss on each rationale and its mean hidden state there, from one forward pass.

MetaNet's features are the base student's own states, and its targets the base student's losses, on the same tokens. Rationales of one
question share a trie (`pipeline/student/shared_prefix_packing.py`), so that its prompt is computed once; a student that packed rows would
make wrong (`pipeline/student/self_check.py`) gets padded ones.

The end token is not read: it has no loss to predict after it.

Axes: B rationales, T tokens, P positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.student.batch import Batch, TokenRow, batch
from pipeline.student.hidden_states import body
from pipeline.student.self_check import Form
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.token_losses import StudentLosses, measure_batch


def _whole_questions(questions: Sequence[int], most: int) -> Iterator[slice]:
    """Consecutive rationales of whole questions, at most `most` at once unless one question has more."""
    begin = end = 0
    for number in range(1, len(questions) + 1):
        if number < len(questions) and questions[number] == questions[number - 1]:
            continue
        if number - begin > most and end > begin:
            yield slice(begin, end)
            begin = end
        end = number
    if end > begin:
        yield slice(begin, end)


def _trained(item: Batch, rows: Sequence[TokenRow]) -> Batch:
    """The batch with the rationales' positions only."""
    wanted_P = torch.cat([torch.arange(1, len(row.tokens)) >= row.start for row in rows])
    names = ("row_P", "line_P", "column_P", "labels_P")
    return item._replace(**{name: getattr(item, name)[wanted_P] for name in names})


@torch.no_grad()
def losses_and_states(
    student: Any,
    form: Form,
    rows: Sequence[TokenRow],
    questions: Sequence[int],
    pad: int,
    rows_at_once: int,
    hardest: float,
    told: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor]:
    """L_real of each rationale (B,), and its mean last hidden state over prompt and rationale (B, D); fp32 on the CPU.

    `questions[i]` is the number of row i's question; the rows of a question stand together and have the same prompt. `told` is called
    with the number of rationales of each forward pass.
    """
    model, device = StudentLosses(student, own_head=form.own_head), student.device
    states: list[Tensor] = []
    hook = body(student).register_forward_hook(lambda _module, _inputs, found: states.append(found.last_hidden_state))
    losses, means = [], []
    try:
        for few in _whole_questions(questions, rows_at_once):
            some = list(rows[few])
            spans = [(1, len(row.tokens)) for row in some]
            if form.packing == "none":
                item = batch(some, spans, pad)
            else:
                groups = [question - questions[few.start] for question in questions[few]]
                item = packed(some, spans, groups, pad, by_rows=form.packing == "rows")
            losses.append(measure_batch(model, _trained(item, some), len(some), device, hardest).cpu())
            hidden_PD = states.pop()[item.line_P.to(device), item.column_P.to(device)].float()
            sums_BD = torch.zeros(len(some), hidden_PD.shape[1], device=device)
            sums_BD.index_add_(0, item.row_P.to(device), hidden_PD)
            counts_B1 = torch.tensor([len(row.tokens) - 1 for row in some], device=device)[:, None]
            means.append((sums_BD / counts_B1).cpu())
            told(len(some))
    finally:
        hook.remove()
    return torch.cat(losses), torch.cat(means)
