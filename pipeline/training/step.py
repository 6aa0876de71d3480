"""One optimiser step of joint training: MetaNet selects rationales, the student trains on them, its losses train MetaNet.

Order within a step: MetaNet scores the step's questions; rationales are selected and weighted; only kept rationales are back-propagated;
every `probe_every` steps the others are measured without gradient; the losses of all ranks are gathered; the inertia state is updated;
MetaNet is trained on the filtered losses; the student's optimiser steps.

MetaNet and the inertia state are replicated: every rank sees the losses of the global batch and takes the same step, so only losses are
communicated between ranks. The student's loss is divided by the number of questions of the *global* batch and multiplied by the number of
ranks, because data parallelism averages (method, section 5).

Axes: Q questions of a step, N questions of the set, K perspectives, F features, P wanted positions, A answer positions, V vocabulary, B
kept rationales of a micro-batch, R rows of a micro-batch that are trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.synthesis import Objective
from pipeline.config.training import Training
from pipeline.metanet.inertia import InertiaState, filtered, observe, targets
from pipeline.metanet.mixture import MixtureWeights, effective_number, select_and_weigh
from pipeline.metanet.network import MetaNet, meta_loss
from pipeline.streams import prefetch
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.losses import losses_of, measure_batch
from pipeline.student.objective import consistency, rationale_losses, real_losses
from pipeline.student.packing import packed
from pipeline.training.training_set import TrainingSet, questions_of_step


@dataclass
class TrainingState:
    """Student engine, MetaNet and their state. `metanet_optimizer` steps every `metanet_accumulation` steps."""

    config: Training
    objective: Objective
    data: TrainingSet
    engine: Any
    metanet: MetaNet
    metanet_optimizer: torch.optim.Optimizer
    inertia: InertiaState
    seed: int
    rank: int
    ranks: int


def learning_rate(config: Training, step: int) -> float:
    """Linear warm-up, then cosine decay to `final_rate` times the peak."""
    warm = max(1, round(config.warm_up * config.steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def scores(joint: TrainingState, index_Q: Tensor) -> Tensor:
    """Scores (Q, K) of a step's rationales: MetaNet's, or computed directly from losses for mixtures without MetaNet."""
    mask_QK, objective, data = joint.data.mask_NK[index_Q], joint.objective, joint.data
    match joint.config.mixture.weights:
        case "table":
            return targets(filtered(joint.inertia, joint.config.inertia, index_Q), mask_QK, objective.target)
        case "static":
            return targets(data.base_losses_NK[index_Q], mask_QK, objective.target)
        case "uniform":
            return torch.zeros(mask_QK.shape)
    with torch.no_grad():
        scores_QK: Tensor = joint.metanet(data.features_NKF[index_Q], mask_QK)[0]
    return scores_QK


def choose(joint: TrainingState, index_Q: Tensor, step: int) -> MixtureWeights:
    """Selects and weights the rationales of a step's questions."""
    random = torch.Generator().manual_seed(joint.seed * 1_000_003 + step)
    scores_QK, mask_QK = scores(joint, index_Q), joint.data.mask_NK[index_Q]
    return select_and_weigh(scores_QK, mask_QK, joint.config.mixture, joint.objective.temperature, random)


@dataclass(frozen=True)
class _Micro:
    """Rows of one micro-batch, in order: one per (question, perspective) pair, the second task's rows, the context rows."""

    item: Batch
    pairs: list[tuple[int, int]]
    at_once: int
    """Number of rows of the second task: one per question, or none."""
    answers: list[list[range]]
    """Per question and kept rationale: the positions p of its answer's logits."""


def _together(joint: TrainingState, rows: list[TokenRow], spans: list[tuple[int, int]], questions: list[int]) -> Batch:
    """Rows as a batch, padded, or packed by question."""
    if joint.config.packing == "none":
        return batch(rows, spans, joint.data.pad)
    number = {question: index for index, question in enumerate(dict.fromkeys(questions))}
    groups = [number[question] for question in questions]
    return packed(rows, spans, groups, joint.data.pad, by_rows=joint.config.packing == "rows")


def assemble(joint: TrainingState, index_Q: Tensor, kept_QK: Tensor, local: range) -> _Micro:
    """The micro-batch for the questions with indices `local` within the step."""
    data, term = joint.data, joint.config.consistency
    pairs = [(q, k) for q in local for k in kept_QK[q].nonzero()[:, 0].tolist()]
    rows = [data.row(int(index_Q[q]), k) for q, k in pairs]
    questions = [q for q, _ in pairs]
    spans = rationale_spans(rows)
    at_once = [data.answer(int(index_Q[q])) for q in local] if joint.config.answer_weight > 0 else []
    rows, spans, questions = rows + at_once, spans + rationale_spans(at_once), questions + list(local)[: len(at_once)]
    from_context = term.weight > 0 and term.answer_context == "before_conclusion"
    first_context = len(rows)
    if from_context:
        contexts = [data.context(int(index_Q[q]), k) for q, k in pairs]
        rows, spans = rows + contexts, spans + [context.answer for context in contexts]
        questions += questions[: len(pairs)]
    item = _together(joint, rows, spans, questions)
    begins = [0, *accumulate(last - first for first, last in spans)]
    answers: list[list[range]] = []
    for q in local if term.weight > 0 else ():
        mine = [i for i, (question, _) in enumerate(pairs) if question == q]
        spelled = rows[mine[0]].answer_tokens
        positions = []
        for i in mine:
            row = i + first_context if from_context else i
            begin, (first, _), (low, high) = begins[row], spans[row], rows[row].answer
            # Answer tokens are compared position by position, so a rationale with a different tokenisation is excluded.
            alike = rows[i].answer_tokens == spelled
            positions.append(range(begin + low - first, begin + high - first) if alike else range(0))
        answers.append(positions)
    return _Micro(item, pairs, len(at_once), answers)


def _micro_loss(joint: TrainingState, micro: _Micro, alpha_QK: Tensor, losses_QK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the micro-batch's questions of L_SFT and L_cons, and the number of trained tokens; fills `losses_QK`."""
    device, share = joint.engine.device, joint.config.answer_weight
    asked_A = torch.tensor([p for positions in micro.answers for position in positions for p in position], dtype=torch.long)
    tokens_P, logits_AV = losses_of(joint.engine, micro.item, asked_A, device)
    trained = len(micro.pairs) + micro.at_once
    main_P = micro.item.row_P < trained
    tokens_P = tokens_P[main_P.to(device)]
    row_P = micro.item.row_P[main_P].to(device)
    losses_R = rationale_losses(tokens_P, row_P, trained)
    losses_B = losses_R[: len(micro.pairs)]
    alpha_B = torch.stack([alpha_QK[q, k] for q, k in micro.pairs]).to(device)
    sft = (1 - share) * (alpha_B * losses_B).sum() + share * losses_R[len(micro.pairs) :].sum()
    real_R = real_losses(tokens_P.detach(), row_P, trained, joint.objective.hardest).cpu()
    for (q, k), loss in zip(micro.pairs, real_R, strict=False):
        losses_QK[q, k] = loss
    agreement = torch.zeros((), device=device)
    order = [q for q, _ in micro.pairs]
    read = iter(torch.split(logits_AV, [len(position) for positions in micro.answers for position in positions]))
    for positions, q in zip(micro.answers, dict.fromkeys(order), strict=False):
        answers = list(islice(read, len(positions)))
        there = [i for i, position in enumerate(positions) if len(position)]
        alpha_K = alpha_B[[i for i, question in enumerate(order) if question == q]][there]
        divergence = joint.config.consistency.divergence
        agreement = agreement + consistency([answers[i] for i in there], alpha_K, divergence)
    return sft, agreement, main_P.sum()


def _probe(joint: TrainingState, index_Q: Tensor, skipped_QK: Tensor, losses_QK: Tensor, local: range) -> None:
    """Measures the student's loss on rationales that are not trained on in this step, without gradient."""
    pairs = [(q, k) for q in local for k in skipped_QK[q].nonzero()[:, 0].tolist()]
    # Under ZeRO-3 every rank must run the same number of forward passes; a rank without work repeats one of its rows.
    filler = [(local[0], int(joint.data.mask_NK[index_Q[local[0]]].nonzero()[0, 0]))]
    chunk = math.ceil(len(pairs or filler) / math.ceil(len(local) / joint.config.questions_per_micro_batch))
    for first in range(0, len(local), joint.config.questions_per_micro_batch):
        number = first // joint.config.questions_per_micro_batch
        mine = pairs[number * chunk : (number + 1) * chunk] or filler
        rows = [joint.data.row(int(index_Q[q]), k) for q, k in mine]
        item = _together(joint, rows, rationale_spans(rows), [q for q, _ in mine])
        found = measure_batch(joint.engine, item, len(rows), joint.engine.device, joint.objective.hardest)
        for (q, k), loss in zip(mine, found, strict=True):
            if skipped_QK[q, k]:
                losses_QK[q, k] = loss


def _sum_over_ranks(joint: TrainingState, tensor: Tensor) -> Tensor:
    """The sum of a tensor over ranks."""
    if joint.ranks > 1:
        moved = tensor.to(joint.engine.device)
        dist.all_reduce(moved)
        return moved.cpu()
    return tensor


def metanet_step(joint: TrainingState, index_Q: Tensor, step: int) -> float:
    """One L_meta step of MetaNet on the filtered losses; returns the loss."""
    config, mask_QK = joint.config, joint.data.mask_NK[index_Q]
    objective = joint.objective
    wanted_QK = targets(filtered(joint.inertia, config.inertia, index_Q), mask_QK, objective.target)
    scores_QK, _ = joint.metanet(joint.data.features_NKF[index_Q], mask_QK)
    loss = meta_loss(scores_QK, wanted_QK, objective.temperature, objective.direction)
    (loss / config.metanet_accumulation).backward()  # type: ignore[no-untyped-call]
    if (step + 1) % config.metanet_accumulation == 0:
        joint.metanet_optimizer.step()
        joint.metanet_optimizer.zero_grad()
    return float(loss.detach())


def train_step(joint: TrainingState, step: int) -> dict[str, Any]:
    """Runs one step and returns its log record. Losses are means over the questions of the global batch."""
    config, data = joint.config, joint.data
    questions = config.questions_per_step
    index_Q = questions_of_step(step, len(data), questions, joint.seed)
    weights = choose(joint, index_Q, step)
    rate = learning_rate(config, step)
    for group in joint.engine.optimizer.param_groups:
        group["lr"] = rate

    share = questions // joint.ranks
    own = range(joint.rank * share, (joint.rank + 1) * share)
    losses_QK = torch.zeros_like(weights.alpha_QK)
    sums = torch.zeros(3)
    seen_QK = weights.kept_QK.clone()
    follows_losses = config.mixture.weights in ("metanet", "table")
    probing = step % config.probe_every == 0 and follows_losses
    if probing:
        _probe(joint, index_Q, data.mask_NK[index_Q] & ~weights.kept_QK, losses_QK, own)
        seen_QK = data.mask_NK[index_Q]
    norm: float | None = None
    parts = (
        own[first : first + config.questions_per_micro_batch] for first in range(0, share, config.questions_per_micro_batch)
    )
    # The next micro-batch is assembled while the student processes the current one.
    for local, micro in prefetch(partial(assemble, joint, index_Q, weights.kept_QK), parts):
        sft, agreement, tokens = _micro_loss(joint, micro, weights.alpha_QK, losses_QK)
        loss = (sft + config.consistency.weight * agreement) * (joint.ranks / questions)
        joint.engine.backward(loss, scale_wrt_gas=False)
        # `engine.step` clears the gradients; they are complete only before the last call.
        if config.zero_stage == 0 and local.stop == own.stop:
            norm = _plain_norm(joint)
        joint.engine.step()
        sums += torch.stack([sft.detach().cpu(), agreement.detach().cpu(), tokens.float()])

    losses_QK, sums = _sum_over_ranks(joint, losses_QK), _sum_over_ranks(joint, sums)
    meta = 0.0
    if follows_losses:
        observe(joint.inertia, config.inertia, index_Q, losses_QK, seen_QK)
    if config.mixture.weights == "metanet":
        meta = metanet_step(joint, index_Q, step)
    kept_norm = joint.engine.get_global_grad_norm()
    return {
        **_log(joint, step, rate, weights, losses_QK, seen_QK, sums, meta),
        "coverage_K": data.mask_NK[index_Q].float().mean(0).tolist(),
        "gradient_norm": float(kept_norm) if kept_norm is not None else norm,
    }


def _plain_norm(joint: TrainingState) -> float:
    """The gradient norm before clipping, for fp32 without ZeRO, where DeepSpeed does not record it."""
    gradients = [parameter.grad for parameter in joint.engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _log(
    joint: TrainingState,
    step: int,
    rate: float,
    weights: MixtureWeights,
    losses_QK: Tensor,
    seen_QK: Tensor,
    sums: Tensor,
    meta: float,
) -> dict[str, Any]:
    questions = joint.config.questions_per_step
    sft, agreement = float(sums[0]) / questions, float(sums[1]) / questions
    counted_K = seen_QK.sum(0)
    return {
        "step": step,
        "loss": sft + joint.config.consistency.weight * agreement,
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
        "tokens": int(sums[2]),
        "learning_rate": rate,
        "metanet_learning_rate": joint.metanet_optimizer.param_groups[0]["lr"],
    }
