"""One optimiser step of joint training: MetaNet selects rationales, the student trains on them, its losses train MetaNet.

Order within a step: MetaNet scores the step's questions; rationales are selected and weighted; only kept rationales are back-propagated;
every `probe_every` steps the others are measured without gradient; the losses of all ranks are gathered; the inertia state is updated;
MetaNet is trained on the filtered losses; the student's optimiser steps.

MetaNet and the inertia state are replicated: every rank sees the losses of the global batch and takes the same step, so only losses are
communicated between ranks, and on GPUs MetaNet's parameters after an update. MetaNet is on the student's device. The student's loss is
divided by the number of questions of the *global* batch and multiplied by the number of ranks, because data parallelism averages (method,
section 5).

Axes: Q questions of a step, N questions of the set, K perspectives, F features, B kept rationales of a
micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.synthesis import Objective
from pipeline.config.training import Training
from pipeline.metanet.inertia import InertiaState, filtered, observe, targets
from pipeline.metanet.loss import meta_loss
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import update
from pipeline.metanet.selection_and_weights import MixtureWeights, effective_number, select_and_weigh
from pipeline.prefetch import prefetch
from pipeline.student.batch import rationale_spans
from pipeline.student.objective import student_loss
from pipeline.student.token_losses import evaluating, measure_batch, pinned
from pipeline.training.micro_batch import MicroBatch, OwnText, assemble, assemble_own, forward, own_losses, together
from pipeline.training.student_engine import StudentEngine
from pipeline.training.training_set import TrainingSet, questions_of_step


@dataclass
class TrainingState:
    """Student engine, MetaNet and their state. `metanet_optimizer` steps every `metanet_accumulation` steps and after the last step."""

    config: Training
    objective: Objective
    data: TrainingSet
    engine: StudentEngine
    metanet: MetaNet
    metanet_optimizer: torch.optim.Optimizer
    inertia: InertiaState
    seed: int
    rank: int
    ranks: int
    own_texts: Callable[[int], list[OwnText]] | None = None
    """With on-policy distillation: the own texts of this rank's questions of a step."""


def learning_rate(config: Training, step: int) -> float:
    """Linear warm-up, then cosine decay to `final_rate` times the peak."""
    warm = max(1, round(config.warm_up * config.steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def metanet_rate(config: Training, step: int) -> float:
    """MetaNet's rate: in the same ratio to the student's at every step, so that MetaNet lags throughout the schedule (our choice)."""
    return config.metanet_rate * learning_rate(config, step) / config.learning_rate


def scores(state: TrainingState, index_Q: Tensor) -> Tensor:
    """Scores (Q, K) of a step's rationales: MetaNet's, or for mixtures without MetaNet directly from losses or lengths."""
    mask_QK, objective, data = state.data.mask_NK[index_Q], state.objective, state.data
    match state.config.mixture.weights:
        case "table":
            return targets(filtered(state.inertia, state.config.inertia, index_Q), mask_QK, objective.target)
        case "static":
            return targets(data.base_losses_NK[index_Q], mask_QK, objective.target)
        case "uniform":
            return torch.zeros(mask_QK.shape)
        case "shortest":
            return (-data.lengths(index_Q)).masked_fill(~mask_QK, -math.inf)
    with torch.no_grad():
        return _metanet_scores(state, index_Q).cpu()


def _metanet_scores(state: TrainingState, index_Q: Tensor) -> Tensor:
    """MetaNet's scores (Q, K), on its device."""
    device = state.metanet.perspective.device
    features_QKF, mask_QK = (
        part[index_Q].to(device, non_blocking=True) for part in (state.data.features_NKF, state.data.mask_NK)
    )
    scores_QK: Tensor = state.metanet(features_QKF, mask_QK)[0]
    return scores_QK


def choose(state: TrainingState, index_Q: Tensor, step: int) -> MixtureWeights:
    """Selects and weights the rationales of a step's questions."""
    random = torch.Generator().manual_seed(state.seed * 1_000_003 + step)
    scores_QK, mask_QK = scores(state, index_Q), state.data.mask_NK[index_Q]
    return select_and_weigh(scores_QK, mask_QK, state.config.mixture, state.objective.temperature, random)


def _probe(state: TrainingState, index_Q: Tensor, skipped_QK: Tensor, losses_QK: Tensor, local: range) -> int:
    """Measures the student's loss on rationales that are not trained on in this step, without gradient; returns the tokens it read."""
    pairs = [(q, k) for q in local for k in skipped_QK[q].nonzero()[:, 0].tolist()]
    # Under ZeRO-3 every rank must run the same number of forward passes; a rank without work repeats one of its rows.
    filler = [(local[0], int(state.data.mask_NK[index_Q[local[0]]].nonzero()[0, 0]))]
    tokens = 0
    chunk = math.ceil(len(pairs or filler) / math.ceil(len(local) / state.config.questions_per_micro_batch))
    for first in range(0, len(local), state.config.questions_per_micro_batch):
        number = first // state.config.questions_per_micro_batch
        asked = pairs[number * chunk : (number + 1) * chunk]
        mine = asked or filler
        rows = [state.data.row(int(index_Q[q]), k) for q, k in mine]
        item = together(state.data, state.config.packing, rows, rationale_spans(rows), [q for q, _ in mine])
        tokens += item.tokens_BT.numel()
        with evaluating(state.engine.module):
            measured_B = measure_batch(state.engine, item, len(rows), state.engine.device, state.objective.hardest)
        if asked:
            _note(losses_QK, asked, measured_B)
    return tokens


def _note(losses_QK: Tensor, pairs: Sequence[tuple[int, int]], measured_B: Tensor) -> None:
    """Writes the measured losses of (question, perspective) pairs into the step's table, on the device."""
    q_B, k_B = torch.tensor(pairs).to(losses_QK.device, non_blocking=True).unbind(1)
    losses_QK[q_B, k_B] = measured_B


def _micro_batch(state: TrainingState, index_Q: Tensor, kept_QK: Tensor, texts: Sequence[OwnText], local: range) -> MicroBatch:
    """A micro-batch, ready to be copied to the device."""
    micro = assemble(state.data, state.config, index_Q, kept_QK, local)
    mine = [text for text in texts if text.question in local]
    if mine:
        micro = replace(micro, own=assemble_own(state.data, state.config.packing, mine))
    if state.engine.device.type != "cuda":
        return micro
    soft, own = micro.soft, micro.own
    return replace(
        micro,
        batch=pinned(micro.batch),
        soft=None if soft is None else pinned(soft),
        own=None if own is None else own._replace(batch=pinned(own.batch), soft=pinned(own.soft)),
    )


def metanet_step(state: TrainingState, index_Q: Tensor, step: int) -> float:
    """One L_meta step of MetaNet on the filtered losses; returns the loss.

    The gradient of an update is the mean over its steps; the last update of a training may have fewer than `metanet_accumulation`.
    """
    config, mask_QK = state.config, state.data.mask_NK[index_Q]
    objective = state.objective
    wanted_QK = targets(filtered(state.inertia, config.inertia, index_Q), mask_QK, objective.target)
    scores_QK = _metanet_scores(state, index_Q)
    wanted_QK = wanted_QK.to(scores_QK.device, non_blocking=True)
    loss = meta_loss(scores_QK, wanted_QK, objective.temperature, objective.direction)
    first = step - step % config.metanet_accumulation
    last = min(first + config.metanet_accumulation, config.steps) - 1
    (loss / (last + 1 - first)).backward()  # type: ignore[no-untyped-call]
    if step == last:
        update(state.metanet, state.metanet_optimizer)
        if state.ranks > 1 and scores_QK.is_cuda:
            # A GPU's sums have no fixed order, so that replicas on several would drift apart.
            for parameter in state.metanet.parameters():
                dist.broadcast(parameter.data, 0)
    return float(loss.detach())


def train_step(state: TrainingState, step: int) -> dict[str, Any]:
    """Runs one step and returns its log record. Losses are means over the questions of the global batch."""
    config, data = state.config, state.data
    questions = config.questions_per_step
    index_Q = questions_of_step(step, len(data), questions, state.seed)
    weights = choose(state, index_Q, step)
    rate = learning_rate(config, step)
    for optimizer, now in ((state.engine.optimizer, rate), (state.metanet_optimizer, metanet_rate(config, step))):
        for group in optimizer.param_groups:
            group["lr"] = now

    share, device = questions // state.ranks, state.engine.device
    own = range(state.rank * share, (state.rank + 1) * share)
    # What a step measures stays on the device until its end; reading a value there would make the host wait for the GPU.
    losses_QK = torch.zeros(weights.alpha_QK.shape, device=device)
    sums = torch.zeros(9, device=device)
    seen_QK = weights.kept_QK.clone()
    follows_losses = config.mixture.weights in ("metanet", "table")
    probing = step % config.probe_every == 0 and follows_losses
    probed = 0
    if probing:
        probed = _probe(state, index_Q, data.mask_NK[index_Q] & ~weights.kept_QK, losses_QK, own)
        seen_QK = data.mask_NK[index_Q]
    norm: Tensor | None = None
    texts = state.own_texts(step) if state.own_texts is not None else []
    parts = (
        own[first : first + config.questions_per_micro_batch] for first in range(0, share, config.questions_per_micro_batch)
    )
    # The next micro-batch is assembled while the student processes the current one.
    for local, micro in prefetch(partial(_micro_batch, state, index_Q, weights.kept_QK, texts), parts):
        read = forward(state.engine, micro, state.objective.hardest)
        _note(losses_QK, micro.pairs, read.real_B)
        alpha_B, answer_alpha = answer_weights(micro, weights.alpha_QK, device)
        loss = student_loss(
            read.losses_B, alpha_B, read.answer_losses_Q, read.answer_logits, answer_alpha, answer_weight=config.answer_weight,
            consistency_weight=config.consistency.weight, divergence=config.consistency.divergence,
            soft_B=read.soft_B, soft_share=0.0 if config.soft_targets is None else config.soft_targets.share,
        )  # fmt: skip
        total, on_own_texts = _with_own_texts(state, loss.total, micro)
        state.engine.backward(total * (state.ranks / questions), scale_wrt_gas=False)
        # `engine.step` clears the gradients; they are complete only before the last call.
        if config.zero_stage == 0 and local.stop == own.stop:
            norm = _plain_norm(state)
        state.engine.step()
        measured = (loss.sft, loss.consistency, loss.rationales, loss.soft, on_own_texts)
        counts = (sums.new_full((), count) for count in (read.tokens, micro.left_out, micro.tokens, probed))
        probed = 0
        sums += torch.stack([*(part.detach() for part in measured), *counts])

    losses_QK, sums = _over_ranks(state, losses_QK, sums)
    meta = 0.0
    if follows_losses:
        observe(state.inertia, config.inertia, index_Q, losses_QK, seen_QK)
    if config.mixture.weights == "metanet":
        meta = metanet_step(state, index_Q, step)
    kept_norm = state.engine.get_global_grad_norm()
    return {
        **_log(state, step, rate, weights, losses_QK, seen_QK, sums, meta),
        "coverage_K": data.mask_NK[index_Q].float().mean(0).tolist(),
        "gradient_norm": float(kept_norm) if kept_norm is not None else None if norm is None else float(norm),
    }


def _with_own_texts(state: TrainingState, recorded: Tensor, micro: MicroBatch) -> tuple[Tensor, Tensor]:
    """The loss with its share on own texts, and that loss alone, both summed over the questions; without own texts the latter is zero.

    A question's is the mean over its texts, as a rationale's is the mean over its tokens.
    """
    policy = state.config.on_policy
    if policy is None or micro.own is None:  # also before the first own texts
        return recorded, recorded.new_zeros(())
    own = own_losses(state.engine, micro.own, policy.divergence).sum() / policy.texts
    return (1 - policy.share) * recorded + policy.share * own, own


def answer_weights(micro: MicroBatch, alpha_QK: Tensor, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Weights of the kept rationales (B,), and of each question's agreeing ones."""
    q_B, k_B = torch.tensor(micro.pairs).unbind(1)
    alpha_B = alpha_QK[q_B, k_B]
    agreeing = [answer.rationales for answer in micro.answers]
    moved = alpha_B[[b for mine in agreeing for b in mine]].to(device, non_blocking=True)
    return alpha_B.to(device, non_blocking=True), list(torch.split(moved, [len(mine) for mine in agreeing]))


def _over_ranks(state: TrainingState, losses_QK: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """What the ranks measured, summed; on the CPU, in one transfer."""
    both = torch.cat([losses_QK.flatten(), sums])
    if state.ranks > 1:
        dist.all_reduce(both)
    losses, sums = torch.split(both.cpu(), [losses_QK.numel(), len(sums)])
    return losses.view(losses_QK.shape), sums


def _plain_norm(state: TrainingState) -> Tensor:
    """The gradient norm before clipping, for fp32 without ZeRO, where DeepSpeed does not record it."""
    gradients = [parameter.grad for parameter in state.engine.module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _log(
    state: TrainingState,
    step: int,
    rate: float,
    weights: MixtureWeights,
    losses_QK: Tensor,
    seen_QK: Tensor,
    sums: Tensor,
    meta: float,
) -> dict[str, Any]:
    config = state.config
    sft, agreement, rationales, soft, own = (float(part) / config.questions_per_step for part in sums[:5])
    loss, extra = sft + config.consistency.weight * agreement, {}
    if config.soft_targets is not None:
        loss += (1 - config.answer_weight) * config.soft_targets.share * (soft - rationales)
        extra = {"loss_soft": soft}
    if config.on_policy is not None:
        share = config.on_policy.share if step >= config.on_policy.first_step(config.steps) else 0.0
        loss = (1 - share) * loss + share * own
        extra |= {"loss_own": own}
    counted_K = seen_QK.sum(0)
    return {
        "step": step,
        "loss": loss,
        **extra,
        "loss_sft": sft,
        "loss_consistency": agreement,
        "loss_meta": meta,
        "alpha_K": weights.alpha_QK.mean(0).tolist(),
        "losses_K": [
            float(total / count) if count else None
            for total, count in zip((losses_QK * seen_QK).sum(0), counted_K, strict=True)
        ],
        "kept": float(weights.kept_QK.sum(-1).float().mean()),
        "effective_number": float(effective_number(weights.alpha_QK).mean()),
        "temperature": float(weights.temperature_Q.mean()),
        "widened": int(weights.widened_Q.sum()),
        "tokens": int(sums[5]),
        "outside_consistency": int(sums[6]),
        "tokens_passed": int(sums[7]),
        "tokens_probed": int(sums[8]),
        "learning_rate": rate,
        "metanet_learning_rate": state.metanet_optimizer.param_groups[0]["lr"],
    }
