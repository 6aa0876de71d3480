"""Stage 3: perspective synthesis. Which rationales are kept, what MetaNet sees of them, and what it thinks at the start.

1. The base student attempts every question; its pass rate is the question's difficulty.
2. Right, different rationales are kept; easy questions are thinned (`pipeline/rationales.py`).
3. Features of every kept rationale, and the base student's loss on it.
4. MetaNet warms up on those losses; its scores and preferences are written beside the rationales.

Writes `rationales.parquet` (a row per question and perspective), `sets.parquet` (a row per question: mask, scores, π, fused vector),
`features.parquet`, `metanet.safetensors`, and the attempts as shards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from pipeline.config import Frozen, ModelSource, Objective, Prompts, RunConfig, Synthesis, identity
from pipeline.errors import NothingSurvives
from pipeline.models import check_model, load_causal_model, load_tokenizer, model_content
from pipeline.perspectives import Perspective, load_perspectives
from pipeline.prompts import check_prompts, prompt_tokens, rationale_tokens, student_prompt
from pipeline.questions import Question
from pipeline.rationales import Curation, curate, first_right
from stages.attempts import pass_rates
from stages.progress import Progress
from stages.sampling import training_questions
from storage.artifact import Artifact, Draft

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from pipeline.assistant import MetaNet
    from pipeline.training_set import Row

NAME: Final = "synthesis"
VERSION: Final = 1
INPUTS: Final = ("questions", "sampling")


class Config(Frozen):
    """Base student, perspectives, prompts, selection and MetaNet."""

    student: ModelSource = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    synthesis: Synthesis = identity()
    objective: Objective = identity()
    max_length: int = identity()
    seed: int = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(
        student=run.student,
        perspectives=load_perspectives(run.perspectives, run.only_perspectives),
        prompts=run.prompts,
        synthesis=run.synthesis,
        objective=run.objective,
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


def _right(config: Config, sampling: Artifact, questions: Mapping[str, Question]) -> tuple[dict[str, dict[str, str]], int]:
    """Right, concluded rationales by question and perspective, and how many were too long to train on."""
    tokenizer = load_tokenizer(config.student)
    order = [item.name for item in config.perspectives]
    found = first_right(sampling.table("samples").to_pylist(), order)
    too_long = 0
    for question_id, rationales in found.items():
        prompt = student_prompt(config.prompts, questions[question_id])
        room = config.max_length - len(prompt_tokens(tokenizer, prompt, config.prompts.chat))
        fits = {name: text for name, text in rationales.items() if len(rationale_tokens(tokenizer, text)) <= room}
        too_long += len(rationales) - len(fits)
        found[question_id] = fits
    return found, too_long


def _select(config: Config, right: Mapping[str, Mapping[str, str]], rates: Mapping[str, float]) -> Curation:
    settings = config.synthesis
    curation = curate(
        right,
        rates,
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


class _Kept(NamedTuple):
    """One kept rationale: question n, perspective k, its tokens and its words."""

    n: int
    k: int
    row: Row
    prompt: str
    text: str
    answer: str


def _table(kept: list[_Kept], values_B: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Values per kept rationale (B, ...) as a table (N, K, ...), zero where a question has no such rationale."""
    import torch

    table_NK = torch.zeros(*size, *values_B.shape[1:], dtype=values_B.dtype)
    table_NK[[item.n for item in kept], [item.k for item in kept]] = values_B
    return table_NK


def _tokenise(
    config: Config, curation: Curation, questions: Mapping[str, Question], tokenizer: PreTrainedTokenizerBase
) -> list[_Kept]:
    from pipeline.training_set import make_row

    names = [item.name for item in config.perspectives]
    kept = []
    for n, item in enumerate(curation.sets):
        question = questions[item.question_id]
        prompt = student_prompt(config.prompts, question)
        prompt_ids = prompt_tokens(tokenizer, prompt, config.prompts.chat)
        for name, text in item.rationales.items():
            where = f"rationale of {item.question_id!r}, {name}"
            row = make_row(tokenizer, prompt_ids, text, question.answer, config.max_length, where)
            kept.append(_Kept(n, names.index(name), row, prompt, text, question.answer))
    return kept


def _losses(config: Config, student: Any, kept: list[_Kept], pad: int, progress: Progress) -> torch.Tensor:
    """The base student's loss on each kept rationale (B,)."""
    import torch

    from pipeline.student import StudentLogits, measured_losses

    progress.start("the base student's losses", len(kept), "rationales")
    model, at_once, measured = StudentLogits(student), config.synthesis.forward_rows, []
    rows = [item.row for item in kept]
    for first in range(0, len(rows), 16 * at_once):
        measured.append(measured_losses(model, rows[first : first + 16 * at_once], pad, student.device, at_once))
        progress.advance(len(measured[-1]))
    return torch.cat(measured)


def _features(config: Config, student: Any, kept: list[_Kept], progress: Progress) -> torch.Tensor:
    """Features (B, F) of prompt and rationale."""
    from transformers import AutoModel

    from pipeline.features import encode

    settings = config.synthesis
    source, encoder = settings.encoder or config.student, student
    if settings.encoder is not None:
        encoder = AutoModel.from_pretrained(
            source.location, revision=source.revision, use_safetensors=True, trust_remote_code=False
        )
        encoder.to(student.device).eval()
    tokenizer = load_tokenizer(source)
    progress.start("features", len(kept), "rationales")
    texts = [item.prompt + item.text for item in kept]
    features_BF = encode(encoder, tokenizer, texts, settings.encoder_context, settings.forward_rows)
    progress.advance(len(texts))
    return features_BF


def _write(
    config: Config,
    out: Draft,
    curation: Curation,
    kept: list[_Kept],
    losses_B: torch.Tensor,
    features_BF: torch.Tensor,
    metanet: MetaNet,
) -> None:
    import torch
    from safetensors.torch import save

    from pipeline.assistant import fused, preferences

    names = [item.name for item in config.perspectives]
    ids = [item.question_id for item in curation.sets]
    size, temperature = (len(ids), len(names)), config.objective.temperature
    mask_NK = _table(kept, torch.ones(len(kept), dtype=torch.bool), size)
    with torch.no_grad():
        scores_NK, hidden_NKD = metanet(_table(kept, features_BF, size), mask_NK)
        weights_NK = preferences(scores_NK, temperature)
        fused_ND = fused(scores_NK, hidden_NKD, temperature)
    places = ([item.n for item in kept], [item.k for item in kept])
    keys = {"question_id": [ids[item.n] for item in kept], "perspective": [names[item.k] for item in kept]}
    rationales = {
        **keys,
        "rationale": [item.text for item in kept],
        "prompt": [item.prompt for item in kept],
        "answer": [item.answer for item in kept],
        "tokens": [len(item.row.tokens) - item.row.start for item in kept],
        "base_loss": losses_B.tolist(),
        "score": scores_NK[places].tolist(),
        "preference": weights_NK[places].tolist(),
    }
    sets = {
        "question_id": ids,
        "pass_rate": [item.pass_rate for item in curation.sets],
        "mask_K": mask_NK.tolist(),
        "score_K": [[score if math.isfinite(score) else None for score in row] for row in scores_NK.tolist()],
        "preference_K": weights_NK.tolist(),
        "fused_D": fused_ND.tolist(),
    }
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features_BF.reshape(-1).numpy()), features_BF.shape[1])
    out.write_table("rationales", pa.table(rationales))
    out.write_table("sets", pa.table(sets))
    out.write_table("features", pa.table({**keys, "feature_F": flat}))
    out.write_bytes("metanet.safetensors", save({name: value.contiguous() for name, value in metanet.state_dict().items()}))


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Attempts, selection, losses and features, warm-up."""
    questions = {question.id: question for question in training_questions(inputs["questions"])}
    rates = pass_rates(config.synthesis, config.student, config.prompts, list(questions.values()), config.seed, out, progress)
    right, too_long = _right(config, inputs["sampling"], questions)
    curation = _select(config, right, rates)
    print(f"{NAME}: " + ", ".join(f"{name} {count}" for name, count in curation.counts.items()), flush=True)

    import torch

    from pipeline.warm_up import warm_up

    tokenizer = load_tokenizer(config.student)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    student = load_causal_model(config.student, "auto")
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    kept = _tokenise(config, curation, questions, tokenizer)
    losses_B = _losses(config, student, kept, pad, progress)
    features_BF = _features(config, student, kept, progress)

    names = [item.name for item in config.perspectives]
    size = (len(curation.sets), len(names))
    losses_NK = _table(kept, losses_B, size)
    mask_NK = _table(kept, torch.ones(len(kept), dtype=torch.bool), size)
    progress.start("MetaNet's warm-up", config.synthesis.warm_up_epochs, "epochs")
    warm = warm_up(
        config.synthesis,
        config.objective,
        _table(kept, features_BF, size),
        losses_NK,
        mask_NK,
        config.seed,
        lambda loss: progress.advance(1, f"L_meta {loss:.4f}"),
    )
    _write(config, out, curation, kept, losses_B, features_BF, warm.metanet)
    counts_K = mask_NK.sum(0).tolist()
    return {
        **curation.counts,
        "too_long": too_long,
        "tokens_kept": sum(len(item.row.tokens) - item.row.start for item in kept),
        "mean_pass_rate": sum(rates.values()) / len(rates),
        "warm_up_losses": warm.losses,
        "base_loss": {
            name: float(losses_NK[:, k].sum() / count) if count else None
            for k, (name, count) in enumerate(zip(names, counts_K, strict=True))
        },
        "kept": dict(zip(names, counts_K, strict=True)),
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
