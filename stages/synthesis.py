"""Stage 3: perspective synthesis. Which rationales are kept, what MetaNet sees of them, and what it thinks at the start.

1. The base student attempts every question; its pass rate is the question's difficulty.
2. Right, different rationales are kept; easy questions are thinned (`pipeline/rationales.py`).
3. Features of every kept rationale, and the base student's loss on it.
4. MetaNet warms up on those losses; its scores and preferences are written beside the rationales.

Writes `rationales.parquet` (a row per question and perspective), `sets.parquet` (a row per question: mask, scores, π, fused vector),
`features.parquet`, `metanet.safetensors`, and the attempts as shards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from pipeline.config import Frozen, ModelSource, Prompts, RunConfig, Synthesis, identity
from pipeline.errors import NothingSurvives
from pipeline.generation import Decoding, open_engine
from pipeline.grading import Outcome, canonical, grade
from pipeline.models import check_model, model_content
from pipeline.perspectives import Perspective, load_perspectives
from pipeline.prompts import check_prompts, prompt_tokens, student_prompt
from pipeline.questions import Question
from pipeline.rationales import Curation, curate, first_right
from stages.progress import Progress
from stages.sampling import check_lengths, sample_seed, training_questions
from storage.artifact import Artifact, Draft

if TYPE_CHECKING:
    import torch

    from pipeline.assistant import MetaNet

NAME: Final = "synthesis"
VERSION: Final = 1
INPUTS: Final = ("questions", "sampling")


class Config(Frozen):
    """Base student, perspectives, prompts, selection and MetaNet."""

    student: ModelSource = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    synthesis: Synthesis = identity()
    max_length: int = identity()
    seed: int = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(
        student=run.student,
        perspectives=load_perspectives(run.perspectives),
        prompts=run.prompts,
        synthesis=run.synthesis,
        max_length=run.training.max_length,
        seed=run.seed,
    )


def outside(config: Config) -> dict[str, str]:
    """The base student's content, and the encoder's where it is another model."""
    found = {"student": model_content(config.student)}
    if config.synthesis.encoder is not None:
        found["encoder"] = model_content(config.synthesis.encoder)
    return found


def check(config: Config) -> None:
    """Model folders and templates."""
    check_model(config.student, "student")
    if config.synthesis.encoder is not None:
        check_model(config.synthesis.encoder, "synthesis.encoder")
    check_prompts(config.prompts, config.perspectives)


def _attempt(config: Config, questions: list[Question], out: Draft, progress: Progress) -> dict[str, float]:
    """Pass rate of the base student per question; shards of attempts are committed as they come."""
    settings = config.synthesis
    finished = {row for shard in out.shards("attempts") for row in shard["question_id"].to_pylist()}
    missing = [question for question in questions if question.id not in finished]
    progress.start("base student's attempts", len(questions), "questions", len(finished))
    if missing:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(config.student.location, revision=config.student.revision)
        prompts = {question.id: student_prompt(config.prompts, question) for question in missing}
        check_lengths(tokenizer, prompts, config.prompts.chat, settings.max_tokens, settings.engine.max_context)
        decoding = Decoding(settings.attempt_temperature, 1.0, settings.max_tokens)
        with open_engine(settings.engine, config.student, config.prompts.chat) as engine:
            for first in range(0, len(missing), 256):
                chunk = [(q, i) for q in missing[first : first + 256] for i in range(settings.attempts)]
                seeds = [sample_seed(config.seed, question.id, "attempt", index) for question, index in chunk]
                completions = engine.generate([prompts[question.id] for question, _ in chunk], seeds, decoding)
                rows = [
                    {
                        "question_id": question.id,
                        "attempt": index,
                        "text": item.text,
                        "outcome": grade(
                            item.text,
                            item.finish_reason == "stop",
                            question.answer,
                            question.answer_type,
                            question.choices,
                        ).outcome.value,
                    }
                    for (question, index), item in zip(chunk, completions, strict=True)
                ]
                out.write_shard("attempts", pa.Table.from_pylist(rows))
                progress.advance(len(missing[first : first + 256]))
    right: dict[str, list[bool]] = {question.id: [] for question in questions}
    for shard in out.shards("attempts"):
        for question_id, outcome in zip(shard["question_id"].to_pylist(), shard["outcome"].to_pylist(), strict=True):
            right[question_id].append(outcome == Outcome.CORRECT)
    return {question_id: sum(values) / len(values) for question_id, values in right.items()}


def _select(config: Config, sampling: Artifact, pass_rates: Mapping[str, float]) -> Curation:
    order = [item.name for item in config.perspectives]
    settings = config.synthesis
    curation = curate(
        first_right(sampling.table("samples").to_pylist(), order),
        pass_rates,
        duplicate_jaccard=settings.duplicate_jaccard,
        min_perspectives=settings.min_perspectives,
        easy_above=settings.easy_above,
        keep_easy=settings.keep_easy,
        seed=config.seed,
    )
    if not curation.sets:
        counted = ", ".join(f"{name} {count}" for name, count in curation.counts.items())
        raise NothingSurvives(
            f"synthesis: no question keeps {settings.min_perspectives} right rationales ({counted}); use a stronger teacher, "
            "more sampling.tries, or a lower synthesis.min_perspectives"
        )
    return curation


class _Warm(NamedTuple):
    metanet: MetaNet
    losses: list[float]


def _warm_up(config: Config, features_NKF: torch.Tensor, losses_NK: torch.Tensor, mask_NK: torch.Tensor) -> _Warm:
    import torch

    from pipeline.assistant import MetaNet, meta_loss
    from pipeline.inertia import targets

    settings = config.synthesis
    torch.manual_seed(config.seed)
    shape, objective = settings.metanet, settings.objective
    metanet = MetaNet(len(config.perspectives), features_NKF.shape[-1], shape.width, shape.heads)
    optimizer = torch.optim.AdamW(metanet.parameters(), lr=settings.warm_up_rate)
    wanted_NK = targets(losses_NK, mask_NK, objective.target)
    epochs = []
    for _ in range(settings.warm_up_epochs):
        total = 0.0
        for index_Q in torch.split(torch.randperm(len(mask_NK)), settings.batch_questions):
            scores_QK, _ = metanet(features_NKF[index_Q], mask_NK[index_Q])
            loss = meta_loss(scores_QK, wanted_NK[index_Q], objective.temperature, objective.direction)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach()) * len(index_Q)
        epochs.append(total / len(mask_NK))
    return _Warm(metanet.eval(), epochs)


def _encode(config: Config, texts: Sequence[tuple[str, str]], student: Any, pad: int) -> torch.Tensor:
    """Features (rows, F) of (prompt, rationale) pairs; texts over the encoder's context are chunked and averaged by length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from pipeline.student import pooled_states
    from pipeline.training_set import Row

    settings = config.synthesis
    source = settings.encoder or config.student
    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    encoder = student
    if settings.encoder is not None:
        encoder = AutoModel.from_pretrained(source.location, revision=source.revision, use_safetensors=True)
        encoder.to(student.device).eval()
        pad = tokenizer.pad_token_id or 0
    chunks: list[Row] = []
    owner: list[int] = []
    for number, (prompt, rationale) in enumerate(texts):
        ids = tokenizer(f"{prompt}{rationale}", add_special_tokens=False)["input_ids"]
        for first in range(0, len(ids), settings.encoder_context):
            piece = ids[first : first + settings.encoder_context]
            chunks.append(Row(piece, 0, (0, 0)))
            owner.append(number)
    states = pooled_states(encoder, chunks, pad, student.device, settings.forward_rows)
    weight = torch.tensor([float(len(chunk.tokens)) for chunk in chunks])[:, None]
    index = torch.tensor(owner)
    total = torch.zeros(len(texts), states.shape[1]).index_add(0, index, states * weight)
    return total / torch.zeros(len(texts), 1).index_add(0, index, weight)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Attempts, selection, features, warm-up."""
    questions = {question.id: question for question in training_questions(inputs["questions"])}
    rates = _attempt(config, list(questions.values()), out, progress)
    curation = _select(config, inputs["sampling"], rates)
    print(f"{NAME}: " + ", ".join(f"{name} {count}" for name, count in curation.counts.items()), flush=True)

    import torch
    from safetensors.torch import save
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.assistant import fused, preferences
    from pipeline.student import StudentLogits, measured_losses
    from pipeline.training_set import make_row

    tokenizer = AutoTokenizer.from_pretrained(config.student.location, revision=config.student.revision)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    student = AutoModelForCausalLM.from_pretrained(
        config.student.location, revision=config.student.revision, dtype="auto", use_safetensors=True
    )
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    names = [item.name for item in config.perspectives]
    places, rows, texts = [], [], []
    for n, item in enumerate(curation.sets):
        question = questions[item.question_id]
        prompt = student_prompt(config.prompts, question)
        prompt_ids = prompt_tokens(tokenizer, prompt, config.prompts.chat)
        answer = canonical(question.answer, question.answer_type, question.choices) or ""
        for name, rationale in item.rationales.items():
            where = f"rationale of {item.question_id!r}, {name}"
            places.append((n, names.index(name)))
            rows.append(make_row(tokenizer, prompt_ids, rationale, answer, config.max_length, where))
            texts.append((prompt, rationale))
    began = time.monotonic()
    progress.start("losses and features", len(rows), "rationales")
    step = max(config.synthesis.forward_rows, 512)
    logits_model = StudentLogits(student)
    measured = []
    for first in range(0, len(rows), step):
        measured.append(
            measured_losses(logits_model, rows[first : first + step], pad, student.device, config.synthesis.forward_rows)
        )
        progress.advance(len(measured[-1]))
    losses_B = torch.cat(measured)
    features_BF = _encode(config, texts, student, pad)

    shape = (len(curation.sets), len(names))
    place_N, place_K = (torch.tensor(column) for column in zip(*places, strict=True))
    losses_NK, mask_NK = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    features_NKF = torch.zeros(*shape, features_BF.shape[1])
    losses_NK[place_N, place_K], mask_NK[place_N, place_K] = losses_B, True
    features_NKF[place_N, place_K] = features_BF
    warm = _warm_up(config, features_NKF, losses_NK, mask_NK)
    temperature = config.synthesis.objective.temperature
    with torch.no_grad():
        scores_NK, hidden_NKD = warm.metanet(features_NKF, mask_NK)
        weights_NK = preferences(scores_NK, temperature)
        fused_ND = fused(scores_NK, hidden_NKD, temperature)

    ids = [item.question_id for item in curation.sets]
    records = [
        {
            "question_id": ids[n],
            "perspective": names[k],
            "rationale": text,
            "prompt": prompt,
            "answer": canonical(questions[ids[n]].answer, questions[ids[n]].answer_type, questions[ids[n]].choices),
            "tokens": len(row.tokens) - row.start,
            "base_loss": float(loss),
            "score": float(scores_NK[n, k]),
            "preference": float(weights_NK[n, k]),
        }
        for (n, k), (prompt, text), row, loss in zip(places, texts, rows, losses_B, strict=True)
    ]
    out.write_table("rationales", pa.Table.from_pylist(records))
    out.write_table(
        "sets",
        pa.table(
            {
                "question_id": ids,
                "pass_rate": [item.pass_rate for item in curation.sets],
                "mask_K": mask_NK.tolist(),
                "score_K": [
                    [s if m else None for s, m in zip(*both, strict=True)]
                    for both in zip(scores_NK.tolist(), mask_NK.tolist(), strict=True)
                ],
                "preference_K": weights_NK.tolist(),
                "fused_D": fused_ND.tolist(),
            }
        ),
    )
    width = features_BF.shape[1]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features_BF.reshape(-1).numpy()), width)
    out.write_table(
        "features",
        pa.table({"question_id": [ids[n] for n, _ in places], "perspective": [names[k] for _, k in places], "feature_F": flat}),
    )
    out.write_bytes("metanet.safetensors", save({k: v.contiguous() for k, v in warm.metanet.state_dict().items()}))
    return {
        **curation.counts,
        "tokens_kept": sum(len(row.tokens) - row.start for row in rows),
        "mean_pass_rate": sum(rates.values()) / len(rates),
        "warm_up_losses": warm.losses,
        "base_loss": {
            name: float(losses_NK[:, k][mask_NK[:, k]].mean()) if bool(mask_NK[:, k].any()) else None
            for k, name in enumerate(names)
        },
        "kept": {name: int(mask_NK[:, k].sum()) for k, name in enumerate(names)},
        "seconds_after_attempts": round(time.monotonic() - began, 2),
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
