"""Decides how a student is trained right, by asking the student itself, before the first step.

Layers that mix tokens without calling the attention function (state spaces, convolutions, linear attention, ALiBi), heads that are more
than a projection, and position encodings that depend on the batch would make packed rows, or even padded ones, silently wrong. No list of
architectures can be complete, so the student's own forward is the reference: each of a few rows alone, through
`student(input_ids).logits`.
Padded rows must have the same token losses, or the student is refused. Packed rows must have them as well, or rows are padded instead,
which is slower and right. The rows are those of the longest question, so that windows and changes of the position encoding that the
training meets are met here.

Only the forward pass is compared: over 172 architectures, every wrong gradient came with wrong losses (`docs/students.md`). The student is
asked in evaluation mode, since dropout and the noise of routers would differ between forms.

Axes: P wanted positions, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.student.attention import ROWS
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.objective import token_losses
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.token_losses import StudentLosses, evaluating, losses_of

Packing = Literal["none", "rows", "flex"]
ATTENTION: Final = {"rows": ROWS, "flex": "flex_attention"}
"""Attention implementation of each packing; padded rows use the model's own."""
FEW: Final = 3
"""Rows that are compared."""
TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference of a row's token losses, in nats, that rounding explains: the median over the row's tokens (our choice).

In bfloat16 the noise of 24 layers is below 0.02. A single token may differ by more, where a router or an index picks another entry.
"""
HEAD_TOLERANCE: Final = 1e-4
"""Largest relative difference between the model's logits and the projection of its last hidden states, which are the same operations."""
WORK: Final = 2e12
"""Floating point operations that the check may cost on a CPU, half a minute of two cores; beyond it, rows are cut to a few tokens.

Windows that are longer than that are then not seen; a student of such a size is trained on a GPU, where nothing is cut.
"""
SHORT: Final = 32
"""Tokens of a prompt and of a rationale that then remain."""


class Form(NamedTuple):
    """How a student is trained: the packing, and whether its own head computes the logits; `reason` says why not as configured."""

    packing: Packing
    own_head: bool
    reason: str = ""


@torch.no_grad()
def right_form(student: Any, rows: Sequence[TokenRow], pad: int, packing: Packing) -> Form:
    """The form in which the student's losses are its own, packed as configured if possible; sets the attention implementation.

    `student` was loaded with its own attention implementation. At most `FEW` rows with a common prompt are used.

    Raises:
        ModelError: padded rows do not have the losses of the rows alone.
    """
    rows = _affordable(student, list(rows)[:FEW])
    with evaluating(student):
        spans = rationale_spans(rows)
        try:
            alone = [_alone(student, row) for row in rows]
            own_head = not _is_projection(student, rows[0])
            off = _difference(_losses(student, own_head, batch(rows, spans, pad)), alone)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"student: {type(student).__name__} does not take token ids alone and give their logits ({error}); "
                "use a decoder-only causal language model"
            ) from error
        if not off <= _tolerance(student):
            raise ModelError(
                f"student: {type(student).__name__} has other losses in a padded batch than alone, by {off:.2g} nats, so that it "
                "cannot be trained in batches; use another student, or rows within its original context if it has a dynamic one"
            )
        if packing == "none":
            return Form("none", own_head)
        plain = student.config._attn_implementation
        try:
            student.set_attn_implementation(ATTENTION[packing])
            if student.config._attn_implementation != ATTENTION[packing]:
                raise ModelError("the model has its own attention code, not transformers' interface")
            item = packed(rows, spans, [0] * len(rows), pad, by_rows=packing == "rows")
            off = _difference(_losses(student, own_head, item), alone)
            reason = f"packed rows have other losses than rows alone, by {off:.2g} nats" * (not off <= _tolerance(student))
        except Exception as error:  # noqa: BLE001 - whatever an architecture raises for packed rows, padded ones are right
            reason = f"packed rows fail: {(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
        if not reason:
            return Form(packing, own_head)
        student.set_attn_implementation(plain)
        return Form("none", own_head, reason)


def _affordable(student: Any, rows: list[TokenRow]) -> list[TokenRow]:
    """The rows, or where they would take a CPU too long, the ends of their prompts with the beginnings of their rationales."""
    work = 2 * student.num_parameters() * sum(len(row.tokens) for row in rows) * 4
    if student.device.type != "cpu" or work <= WORK:
        return rows
    cut = []
    for row in rows:
        first = max(0, row.start - SHORT)
        tokens = row.tokens[first : row.start + SHORT]
        cut.append(TokenRow(tokens, row.start - first, (len(tokens) - 2, len(tokens) - 1)))
    return cut


def _tolerance(student: Any) -> float:
    return TOLERANCE.get(student.dtype, TOLERANCE[torch.bfloat16])


def _alone(student: Any, row: TokenRow) -> Tensor:
    """Token losses of a row's wanted positions by the model's own forward, fp32 on the CPU."""
    tokens_T = torch.tensor(row.tokens, device=student.device)
    logits_TV = student(input_ids=tokens_T[None], use_cache=False).logits[0]
    return token_losses(logits_TV[row.start - 1 : -1], tokens_T[row.start :]).cpu()


def _is_projection(student: Any, row: TokenRow) -> bool:
    """Whether the model's logits are the projection of its last hidden states."""
    tokens_1T = torch.tensor(row.tokens, device=student.device)[None]
    own_TV = student(input_ids=tokens_1T, use_cache=False).logits[0].float()
    try:
        hidden_TD = student.base_model(input_ids=tokens_1T, use_cache=False).last_hidden_state[0]
        found_TV = student.get_output_embeddings()(hidden_TD).float()
    except (AttributeError, RuntimeError):
        return False
    return own_TV.shape == found_TV.shape and bool((own_TV - found_TV).norm() <= HEAD_TOLERANCE * own_TV.norm())


def _losses(student: Any, own_head: bool, item: Batch) -> list[Tensor]:
    """Token losses of each row of a batch, on the CPU."""
    model = StudentLosses(student, own_head=own_head)
    losses_P = losses_of(model, item, torch.zeros(0, dtype=torch.long), student.device).losses_P
    return list(torch.split(losses_P.cpu(), torch.bincount(item.row_P).tolist()))


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest of the rows' median differences.

    The first row of a trie is right whatever the layers do, so that a median over all rows could miss the others.
    """
    return max(float((one - other).abs().median()) for one, other in zip(found, expected, strict=True))
