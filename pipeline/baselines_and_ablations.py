"""Defines the experiment's arms: MIND, the baselines and the ablations, each a named change to one run configuration.

An arm is data: fields of `RunConfig` and their values, in the form that `--set` accepts. Arms share every artifact that their changes do
not affect: nearly all read the same synthesis and differ only in training.

Arms are matched in optimiser steps and in rationales per step. With Q questions per step, of which MIND keeps κ rationales each, it trains
on about κ·Q rationales; an arm that uses r rationales per question takes κ·Q/r questions per step. Arms with few rationales per question
therefore see more distinct questions. The results table reports the actual training volume (method, section 6). A micro-batch has at most
the rationales of the configuration's own.

Axes: Q questions of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

KEPT: Final = 3.2
"""Approximate number κ of rationales (of eight) that MIND keeps in the shipped experiment; the results table reports the exact number."""

KEPT_BY_PAPER: Final = 1.8 / 3.2
"""Share of κ that selection on raw scores keeps at the same β."""

SPECIALIST: Final = "single-"
"""Name prefix of the arms that train on one perspective only."""

ASKS_TEACHER: Final = ("synthesis.teacher_top_k", "training.on_policy")
"""Fields of arms whose teacher is asked for its distributions, which an imported one cannot be."""

Kind = Literal["mind", "baseline", "ablation", "extension"]


class Arm(NamedTuple):
    """One arm: name, short description, kind and changed fields."""

    name: str
    says: str
    kind: Kind
    changes: Mapping[str, Any]

    def assignments(self) -> tuple[str, ...]:
        """The changes as `--set` assignments."""
        import json

        return tuple(f"{field}={json.dumps(value)}" for field, value in self.changes.items())


class Volume(NamedTuple):
    """What all arms have in common: MIND's questions per step and per micro-batch, and the rationales κ that it keeps of each."""

    questions: int
    micro_batch: int
    kept: float = KEPT


def _taking(rationales: float, volume: Volume) -> dict[str, Any]:
    """Questions per step that give κ·Q rationales per step, and the largest micro-batch that divides them and is not larger."""
    per_step = max(1, round(volume.questions * volume.kept / rationales))
    room = 1.05 * volume.micro_batch * volume.kept / rationales  # a twentieth more, for the rounding of `per_step`
    micro = max(size for size in range(1, per_step + 1) if per_step % size == 0 and size <= max(1, room))
    return {"training.questions_per_step": per_step, "training.questions_per_micro_batch": micro}


def _soft(share: float, kind: str) -> dict[str, Any]:
    """Soft targets as fields of an arm."""
    return {"synthesis__teacher_top_k": 32, "training__soft_targets": {"share": share, "divergence": {"kind": kind}}}


def _on_policy(share: float, kind: str, after: float = 0.0) -> dict[str, Any]:
    """On-policy distillation as fields of an arm, with the engine of the shipped experiment's attempts."""
    engine = {"kind": "transformers", "dtype": "float32", "batch": 64}
    return {
        "training__on_policy": {
            "share": share,
            "after": after,
            "divergence": {"kind": kind},
            "max_tokens": 160,
            "engine": engine,
        }
    }


_UNIFORM: Final = {"training.mixture.weights": "uniform", "training.mixture.beta": 0.0, "training.consistency.weight": 0.0}


def arms(volume: Volume, perspectives: Sequence[str], copied: str) -> tuple[Arm, ...]:
    """All arms for runs of one volume with the given perspectives; `copied` is the perspective that is sampled repeatedly."""
    every = len(perspectives)

    def arm(name: str, says: str, kind: Kind, rationales: float = volume.kept, **changes: Any) -> Arm:
        dotted = {field.replace("__", "."): value for field, value in changes.items()}
        return Arm(name, says, kind, {**_taking(rationales, volume), **dotted})

    def uniform(name: str, says: str, rationales: float, **changes: Any) -> Arm:
        made = arm(name, says, "baseline", rationales, **changes)
        return made._replace(changes={**_UNIFORM, **made.changes})

    singles = [
        uniform(f"{SPECIALIST}{name}", f"one rationale per question: {name}", 1, training__perspectives=[name])
        for name in perspectives
    ]
    few = [
        arm(f"mind-{number}", f"MIND with {number} of {every} perspectives", "ablation", rationales,
            training__perspectives=list(perspectives[:number]))
        for number, rationales in ((2, 2), (4, 2))
        if number < every
    ]  # fmt: skip
    return (
        arm("mind", "the method", "mind"),
        *singles,
        uniform("step-by-step", "answer and rationale as two tasks, a = 0.5", 1, training__answer_weight=0.5,
                training__mixture__draw=1),
        # Two equal weights give one pair with α_i α_j = 1/4, so λ = 0.4 equals 0.1 times their divergence.
        uniform("mcc-kd", "two random rationales + 0.1 symmetric KL on answer tokens", 2, training__mixture__draw=2,
                training__consistency__weight=0.4, training__consistency__divergence="symmetric_kl"),
        uniform("uniform", "all perspectives, equal weights", every),
        uniform(f"copies-{copied}", f"{every} samples of one perspective, {copied}, equal weights", every,
                only_perspectives=[copied], perspective_copies=every, synthesis__duplicate_jaccard=1.0),
        uniform("shortest", "rejection sampling: the shortest correct rationale of each question", 1,
                training__mixture__weights="shortest", training__mixture__beta=1.0, training__mixture__min_kept=1,
                training__mixture__min_effective=1.0, training__mixture__draw=1),
        uniform("forward-kl", "all perspectives, equal weights; KL to the teacher's distributions in place of its text", every,
                **_soft(1.0, "forward_kl")),
        uniform("supervised-gkd", "all perspectives, equal weights; the divergence of GKD, β = 0.5, on the teacher's texts", every,
                **_soft(1.0, "jensen_shannon")),
        uniform("on-policy", "own texts only: reverse KL to the teacher at every token that the student writes", 1,
                training__mixture__draw=1, **_on_policy(1.0, "reverse_kl")),
        uniform("gkd", "GKD: its divergence, β = 0.5, half on own texts and half on the teacher's", every,
                **_soft(1.0, "jensen_shannon"), **_on_policy(0.5, "jensen_shannon")),
        arm("mind-on-policy", "MIND; half of the loss is reverse KL on own texts", "extension", **_on_policy(0.5, "reverse_kl")),
        arm("mind-then-on-policy", "MIND for the first half of the steps, then own texts only", "extension",
            **_on_policy(1.0, "reverse_kl", after=0.5)),
        arm("mind-soft", "MIND; half of a rationale's loss is KL to the teacher's distributions", "extension",
            **_soft(0.5, "forward_kl")),
        arm("random-weights", "MIND's weights randomly permuted", "ablation", training__mixture__order="shuffled"),
        arm("inverted", "MIND's scores with inverted sign", "ablation", training__mixture__order="inverted"),
        arm("static", "weights from the base student's losses", "ablation", training__mixture__weights="static"),
        arm("instantaneous", "the last observed loss instead of MetaNet", "ablation", training__mixture__weights="table",
            training__inertia__kind="none"),
        arm("table", "filtered losses without a network", "ablation", training__mixture__weights="table",
            training__inertia__kind="ema"),
        arm("no-attention", "MetaNet without attention across perspectives", "ablation", synthesis__metanet__heads=0),
        arm("no-consistency", "no L_cons", "ablation", training__consistency__weight=0.0),
        arm("no-selection", "β = 0: all rationales, weighted", "ablation", every, training__mixture__beta=0.0),
        arm("top-1", "only the best rationale", "ablation", 1, training__mixture__beta=1.0, training__mixture__min_kept=1,
            training__mixture__min_effective=1.0),
        *few,
        arm("prediction-first", "L_meta in the KL direction printed in the paper", "ablation",
            objective__direction="prediction_first"),
        arm("raw-targets", "targets not z-scored", "ablation", objective__target="raw"),
        arm("paper", "the method as the paper states it, all points at once (`preset: paper`)", "ablation", KEPT_BY_PAPER * volume.kept,
            preset="paper"),
        arm("explicit-inertia", "an explicit loss filter in addition to MetaNet's slower optimiser", "ablation",
            training__inertia__kind="ema"),
    )  # fmt: skip
