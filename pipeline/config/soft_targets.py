"""How the student learns from the teacher's distributions over the next token, beside the teacher's text (soft targets)."""

from __future__ import annotations

from typing import Final, Literal

from pipeline.schema.fields import Frozen, identity

BYTES_OF_TOKEN: Final = 8
"""Bytes of one likely token of a soft target: an id and a log-probability."""


class Divergence(Frozen):
    """What is minimised between the teacher's and the student's distribution of the next token."""

    kind: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = identity("forward_kl")
    """KL(teacher ‖ student), which covers all that the teacher may say; KL(student ‖ teacher), which keeps to what the teacher is sure of;
    or the generalised Jensen-Shannon divergence of GKD, between the two."""
    beta: float = identity(0.5, gt=0, lt=1)
    """`jensen_shannon` only: the teacher's share of the mixture; towards 0 it is like forward_kl, towards 1 like reverse_kl."""


class SoftTargets(Frozen):
    """Soft targets as a part of the training's loss; `synthesis.teacher_top_k` measures them."""

    share: float = identity(gt=0, le=1)
    """Share of a rationale's loss that is the divergence to the teacher; the rest is the cross-entropy of its text."""
    divergence: Divergence = identity(Divergence())
    """The divergence."""
