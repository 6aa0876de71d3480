"""The `training` section: joint training of student and MetaNet under DeepSpeed ZeRO."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.config.soft_targets import OnPolicy, SoftTargets
from pipeline.schema.fields import Frozen, identity, runtime


class Inertia(Frozen):
    """How slowly MetaNet's targets follow the student's loss."""

    kind: Literal["optimizer", "ema", "none"] = identity("optimizer")
    """`optimizer`: the lag of MetaNet's optimiser, as in the paper; `ema`: an explicit filter; `none`: the last loss (an ablation)."""
    gamma: float = identity(0.7, ge=0, lt=1)
    """`ema` only: decay of the mean of one question and perspective."""
    gamma_perspective: float = identity(0.99, ge=0, lt=1)
    """`ema` only: decay of the mean of one perspective over all questions."""
    prior_visits: float = identity(2.0, ge=0)
    """`ema` only: visits of a question at which its own mean and its perspective's mean count equally."""


class Mixture(Frozen):
    """Selection of rationales and their mixture weights α."""

    weights: Literal["metanet", "table", "static", "uniform", "shortest"] = identity("metanet")
    """Source of the scores: MetaNet; filtered losses without a network; the base student's losses; none, with equal weights; or the
    negative lengths, so that β = 1 keeps the shortest rationale."""
    order: Literal["scored", "inverted", "shuffled"] = identity("scored")
    """Use the scores as they are, inverted, or shuffled among a question's rationales (ablations)."""
    beta: float = identity(0.3, ge=0, le=1)
    """Keep rationales whose probability (or score, see `selection`) is at least β times the largest of the question."""
    selection: Literal["probabilities", "scores"] = identity("probabilities")
    """What β compares: probabilities softmax(s/τ), or raw scores as printed in the paper, where negative scores need `min_kept`."""
    temperature: float = identity(1.0, gt=0)
    """Temperature of the softmax over kept rationales."""
    epsilon: float = identity(0.1, ge=0, le=1)
    """Share of the weight that is spread evenly over kept rationales."""
    min_kept: int = identity(2, ge=1)
    """Keep at least this many rationales of a question that has them."""
    min_effective: float = identity(1.5, ge=1)
    """Smallest effective number of rationales, exp(entropy of α); the temperature rises until it is reached."""
    draw: int | None = identity(None, ge=1)
    """Train on this many of the kept rationales, drawn at random (for the MCC-KD arm)."""


class Consistency(Frozen):
    """The consistency term L_cons between the answer distributions of kept rationales."""

    weight: float = identity(0.1, ge=0)
    """Weight λ of the term; 0 removes it."""
    divergence: Literal["jensen_shannon", "symmetric_kl"] = identity("jensen_shannon")
    """Divergence between two answer distributions."""
    answer_context: Literal["full", "before_conclusion"] = identity("before_conclusion")
    """Condition the answer on the whole rationale, or on the rationale without its last reasoning sentence."""


class Lora(Frozen):
    """Low-rank adapters that are trained in place of the student's weights."""

    rank: int = identity(16, ge=1)
    """Rank of the adapters."""
    alpha: int = identity(32, ge=1)
    """Scale: adapters are multiplied by alpha / rank."""
    targets: tuple[str, ...] | None = identity(None, min_length=1)
    """Names of the adapted layers; all linear layers if left out."""


class DevScores(Frozen):
    """Answers of the student to dev questions while it trains, and the choice of the exported student by them."""

    every: int = identity(ge=1)
    """Steps between two evaluations; the base is evaluated before the first step, and the student after the last one."""
    sets: tuple[str, ...] | None = identity(None, min_length=1)
    """Sets with `use: dev` to answer; all of them if left out."""
    items: int = identity(100, ge=1)
    """Most questions of a set: its first ones."""
    max_tokens: int = identity(256, ge=1)
    """Longest answer, in tokens."""
    keep_best: str | None = identity(None)
    """Export the student of the step with the highest accuracy on this set, or on all of them (`all`); the last one if left out."""
    rows: int = runtime(16, ge=1)
    """Answers that are generated together on a rank."""


class Training(Frozen):
    """Joint training of student and MetaNet."""

    steps: int = identity(300, ge=1)
    """Optimiser steps."""
    questions_per_step: int = identity(8, ge=1)
    """Questions of the global batch: over all ranks and accumulation steps."""
    learning_rate: float = identity(1e-5, gt=0)
    """Peak learning rate of the student."""
    warm_up: float = identity(0.03, ge=0, lt=1)
    """Share of the steps with a linearly rising rate."""
    final_rate: float = identity(0.1, ge=0, le=1)
    """Rate at the end of the cosine decay, as a share of the peak."""
    weight_decay: float = identity(0.0, ge=0)
    """AdamW weight decay of the student's layers; norms, biases and embeddings have none."""
    clip: float = identity(1.0, gt=0)
    """Gradient clipping: largest global norm."""
    precision: Literal["fp32", "bf16"] = identity("bf16")
    """Precision of the student's weights and activations."""
    max_length: int = identity(2048, ge=8)
    """Longest prompt with its rationale, in tokens."""
    metanet_rate: float = identity(5e-6, gt=0)
    """Peak learning rate of MetaNet, which follows the student's schedule; below `learning_rate` where `inertia.kind` is `optimizer`."""
    metanet_accumulation: int = identity(4, ge=1)
    """Steps that MetaNet's gradient is averaged over; those left at the end of a training give a last update."""
    probe_every: int = identity(4, ge=1)
    """Measure the losses of rationales that are not kept once in this many steps."""
    inertia: Inertia = identity(Inertia())
    """How slowly MetaNet's targets follow the loss."""
    mixture: Mixture = identity(Mixture())
    """Selection and weights."""
    consistency: Consistency = identity(Consistency())
    """The consistency term."""
    perspectives: tuple[str, ...] | None = identity(None, min_length=1)
    """Train on rationales of these perspectives only; all perspectives if left out."""
    hold_out: float = identity(0.0, ge=0, lt=1)
    """Share of the questions that is held out of training, to check MetaNet's scores on them."""
    answer_weight: float = identity(0.0, ge=0, lt=1)
    """Share of the loss for the answer-only task, whose prompt is `prompts.answer` (for the step-by-step arm)."""
    lora: Lora | None = identity(None)
    """Train adapters only; the exported student has them merged."""
    soft_targets: SoftTargets | None = identity(None)
    """Learn from the teacher's distributions over the next token as well, as `synthesis.teacher_top_k` measures them; text alone if left
    out."""
    on_policy: OnPolicy | None = identity(None)
    """Learn from the teacher's scores of the student's own texts as well; from recorded rationales alone if left out."""
    dev: DevScores | None = identity(None)
    """Dev scores while training; none if left out."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(2)
    """DeepSpeed ZeRO stage: what is partitioned over ranks."""
    offload: Literal["none", "optimizer", "all"] = runtime("none")
    """Keep the optimiser's state (`optimizer`, ZeRO 1 or more) or also the parameters (`all`, ZeRO 3) in host memory."""
    ranks: int = runtime(1, ge=1)
    """Processes on all hosts together."""
    hosts: int = runtime(1, ge=1)
    """Machines that share the root's folder; every host but the first runs `mind join`."""
    address: str | None = runtime(None, pattern=r"^[A-Za-z0-9.:_-]+$")
    """Address of the first host, as the others reach it. With one host only loopback is used."""
    questions_per_micro_batch: int = runtime(4, ge=1)
    """Questions of one forward and backward pass on one rank."""
    checkpoint_every: int = runtime(50, ge=1)
    """Steps between checkpoints: what a killed run repeats at most."""
    gradient_checkpointing: bool = runtime(False)
    """Recompute activations in the backward pass, to save memory."""
    packing: Literal["none", "rows", "flex"] = runtime("rows")
    """Compute a question's shared prefix once: attention row by row (`rows`) or FlexAttention (`flex`, needs a GPU); `none` pads.
    A student for which packed rows are not right is padded, whatever is configured.
    """
    threads_per_rank: int = runtime(1, ge=1)
    """CPU threads of a rank."""
    port: int | None = runtime(None, ge=1, le=65535)
    """Rendezvous port; a free one is chosen if left out."""

    @model_validator(mode="after")
    def _lags(self) -> Training:
        if self.inertia.kind == "optimizer" and self.metanet_rate >= self.learning_rate:
            raise ValueError("with inertia.kind optimizer, metanet_rate must be below learning_rate: that lag is the inertia")
        return self

    @model_validator(mode="after")
    def _hosts_find_each_other(self) -> Training:
        if self.ranks % self.hosts:
            raise ValueError(f"ranks {self.ranks}, those of all hosts, must be a multiple of hosts {self.hosts}")
        if self.hosts > 1 and (self.address is None or self.port is None):
            raise ValueError(f"hosts {self.hosts} meet at the first one's address and port; set both")
        return self

    @model_validator(mode="after")
    def _offloads_what_is_partitioned(self) -> Training:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs zero_stage {least} or more, not {self.zero_stage}")
        return self

    @model_validator(mode="after")
    def _keeps_full_precision_weights(self) -> Training:
        if self.precision == "bf16" and self.zero_stage == 0:
            # Without ZeRO, DeepSpeed would step the bfloat16 weights themselves, which rounds small updates away.
            raise ValueError("precision bf16 needs zero_stage 1 or more, which keeps fp32 copies of the weights; set 1")
        return self

    @model_validator(mode="after")
    def _answers_with_a_whole_student(self) -> Training:
        if self.dev is not None and self.zero_stage == 3:
            raise ValueError(
                "dev: under zero_stage 3 no rank has a whole student to answer with; set zero_stage 2, or leave dev out"
            )
        return self

    @model_validator(mode="after")
    def _writes_with_a_whole_student(self) -> Training:
        if self.on_policy is None:
            return self
        if self.zero_stage == 3:
            raise ValueError("on_policy: under zero_stage 3 no rank has a whole student to write with; set zero_stage 2")
        if self.on_policy.max_tokens >= self.max_length:
            raise ValueError(
                f"on_policy.max_tokens {self.on_policy.max_tokens}: leaves no room for a prompt in max_length {self.max_length}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        share = self.ranks * self.questions_per_micro_batch
        if self.questions_per_step % share:
            raise ValueError(
                f"questions_per_step {self.questions_per_step} must be a multiple of "
                f"ranks x questions_per_micro_batch = {share}"
            )
        return self
