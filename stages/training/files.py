"""Writes and opens the training set as files in the scratch folder: tokens, row locations, features and losses of all kept rationales.

Rank 0 writes them once, reading the rationales in order; the other ranks wait, and a resumed run reuses them. They are read as
memory-mapped tensors, so all ranks share one copy in the page cache. `shape.json` is written last; its presence means that all files are
complete.

Axes: N questions of the set, K perspectives, F features, T tokens, B rows; 2 row kinds (row, context row), 5 address fields.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pipeline.model_thoughts import thought_form
from pipeline.prompt_rendering import prompt_tokens, render
from pipeline.student.batch import TokenRow
from pipeline.training.training_set import (
    ADDRESS_FIELDS,
    SoftTargetTable,
    TrainingSet,
    address_of,
    answer_row,
    context_row,
    make_row,
)
from stages.core.summaries import SynthesisSummary
from stages.shared.mapped_tables import Piece, blank, derived, mapped, numbered, write_table
from stages.training.stage_config import Config
from storage.artifact import Artifact
from storage.atomic import sync_file, write_bytes
from storage.errors import ArtifactError
from storage.mirror import DERIVED

_SHAPE: Final = "shape.json"
_ROWS: Final = 1024
_SOFT_ROWS: Final = 64
"""Rows of soft targets at once: a rationale of 1,000 tokens has 256 KB with 32 likely tokens each."""


def _rows(config: Config, tokenizer: Any, piece: Piece) -> Iterator[list[TokenRow]]:
    """The row and the context row of every rationale of a piece."""
    limit, marks = config.training.max_length, thought_form(tokenizer, config.student).marks
    for item in piece.to_pylist():
        prompt = prompt_tokens(tokenizer, item["prompt"], config.student.dialogue)
        where = f"rationale of {item['question_id']!r}, {item['perspective']}"
        text, answer = item["rationale"], item["answer"]
        yield [make(tokenizer, prompt, text, answer, limit, where, marks) for make in (make_row, context_row)]


def _write_tokens(config: Config, synthesis: Artifact, tokenizer: Any, names: Sequence[str], folder: Path) -> int:
    """Write `tokens.i32` and `places.i64`; returns the number of tokens."""
    questions, offset = SynthesisSummary.of(synthesis).kept_questions, 0
    places = blank(folder / "places.i64", (questions, len(names), 2, ADDRESS_FIELDS), np.int64)
    columns = ["question_id", "perspective", "prompt", "rationale", "answer"]
    with (folder / "tokens.i32").open("wb") as tokens:
        for piece, (n_B, k_B) in numbered(synthesis.batches("rationales", columns, _ROWS), names, questions):
            for n, k, pair in zip(n_B, k_B, _rows(config, tokenizer, piece), strict=True):
                for number, row in enumerate(pair):
                    places[n, k, number] = address_of(row, offset)
                    tokens.write(np.array(row.tokens, np.int32).tobytes())
                    offset += len(row.tokens)
    places.flush()
    return offset


def _write_answers(config: Config, synthesis: Artifact, tokenizer: Any, offset: int, folder: Path) -> int:
    """Write `answers.i64`, and append its tokens to the others; returns the total number of tokens."""
    questions, names = SynthesisSummary.of(synthesis).kept_questions, [item.name for item in config.perspectives]
    places = blank(folder / "answers.i64", (questions, ADDRESS_FIELDS), np.int64)
    limit, prompts = config.training.max_length, config.prompts
    form = thought_form(tokenizer, config.student)
    with (folder / "tokens.i32").open("ab") as tokens:
        pieces = synthesis.batches("rationales", ["question_id", "perspective", "prompt", "answer"], _ROWS)
        for piece, (n_B, _) in numbered(pieces, names, questions):
            for n, item in zip(n_B, piece.to_pylist(), strict=True):
                if places[n, 1]:
                    continue
                asked = prompt_tokens(tokenizer, render(prompts.answer, prompt=item["prompt"]), config.student.dialogue)
                row = answer_row(tokenizer, asked, item["answer"], limit, f"answer of {item['question_id']!r}", form)
                places[n] = address_of(row, offset)
                tokens.write(np.array(row.tokens, np.int32).tobytes())
                offset += len(row.tokens)
    places.flush()
    sync_file(folder / "answers.i64")
    return offset


def _write_soft_targets(synthesis: Artifact, names: Sequence[str], folder: Path) -> tuple[int, int]:
    """Write `soft_ids.i32`, `soft_logprobs.f32` and `soft_offsets.i64`; returns the numbers of tokens and of likely tokens of each.

    Raises:
        ArtifactError: a rationale has another number of soft targets than of trained tokens.
    """
    questions, offset, top_k = SynthesisSummary.of(synthesis).kept_questions, 0, 0
    size = (questions, len(names))
    places = np.memmap(folder / "places.i64", np.int64, "r", shape=(*size, 2, ADDRESS_FIELDS))
    offsets = blank(folder / "soft_offsets.i64", size, np.int64)
    with (folder / "soft_ids.i32").open("wb") as ids, (folder / "soft_logprobs.f32").open("wb") as logprobs:
        for piece, (n_B, k_B) in numbered(synthesis.batches("soft_targets", rows=_SOFT_ROWS), names, questions):
            counts = piece["token_TC"].value_lengths().to_pylist()
            for n, k, count in zip(n_B, k_B, counts, strict=True):
                if count != places[n, k, 0, 1] - places[n, k, 0, 2]:
                    raise ArtifactError(
                        f"{synthesis.name}: {count} soft targets for {places[n, k, 0, 1] - places[n, k, 0, 2]} tokens of question {n}, "
                        f"{names[k]}; run synthesis again"
                    )
                offsets[n, k] = offset
                offset += count
            for file, column, kind in ((ids, "token_TC", np.int32), (logprobs, "logprob_TC", np.float32)):
                rows = piece[column].flatten()
                top_k = rows.type.list_size
                file.write(np.asarray(rows.flatten().to_numpy(), kind).tobytes())
    offsets.flush()
    for name in ("soft_ids.i32", "soft_logprobs.f32", "soft_offsets.i64"):
        sync_file(folder / name)
    return offset, top_k


def write_training_files(config: Config, synthesis: Artifact, tokenizer: Any, scratch: Path) -> None:
    """Write all files, replacing leftovers of a killed process."""
    folder, names = derived(scratch), [item.name for item in config.perspectives]
    size = (SynthesisSummary.of(synthesis).kept_questions, len(names))
    tokens = _write_tokens(config, synthesis, tokenizer, names, folder)
    if config.training.answer_weight:
        tokens = _write_answers(config, synthesis, tokenizer, tokens, folder)
    keys = ["question_id", "perspective"]
    losses = numbered(synthesis.batches("rationales", [*keys, "base_loss"], _ROWS), names, size[0])
    write_table(folder / "losses.f32", losses, "base_loss", size)
    width = next(synthesis.batches("features", ["feature_F"], 1)).schema.field("feature_F").type.list_size
    features = numbered(synthesis.batches("features", [*keys, "feature_F"], _ROWS), names, size[0])
    write_table(folder / "features.f32", features, "feature_F", (*size, width))
    for name in ("tokens.i32", "places.i64"):
        sync_file(folder / name)
    soft = _write_soft_targets(synthesis, names, folder) if config.training.soft_targets is not None else None
    shape = {
        "soft": soft,
        "questions": size[0],
        "perspectives": size[1],
        "features": width,
        "tokens": tokens,
        "answers": config.training.answer_weight > 0,
    }
    write_bytes(folder / _SHAPE, json.dumps(shape).encode())


def are_written(scratch: Path) -> bool:
    """Whether all files are complete."""
    return (scratch / DERIVED / _SHAPE).exists()


def wait_for_training_files(scratch: Path) -> None:
    """Wait until rank 0 has written them; if rank 0 fails, the launcher terminates this process."""
    # Not a barrier, which has a timeout: tokenising millions of rows may take longer.
    while not are_written(scratch):
        time.sleep(0.2)


def open_training_set(scratch: Path, pad: int) -> TrainingSet:
    """Open the files as a training set; only the mask is held in memory."""
    folder = scratch / DERIVED
    shape = json.loads((folder / _SHAPE).read_text())
    size = (shape["questions"], shape["perspectives"])
    addresses_NK25 = mapped(folder / "places.i64", (*size, 2, ADDRESS_FIELDS), torch.int64)
    return TrainingSet(
        tokens_T=mapped(folder / "tokens.i32", (shape["tokens"],), torch.int32),
        addresses_NK25=addresses_NK25,
        features_NKF=mapped(folder / "features.f32", (*size, shape["features"])),
        mask_NK=addresses_NK25[:, :, 0, 1] > 0,
        base_losses_NK=mapped(folder / "losses.f32", size),
        pad=pad,
        answers_N5=mapped(folder / "answers.i64", (size[0], ADDRESS_FIELDS), torch.int64) if shape["answers"] else None,
        soft=None if shape["soft"] is None else _open_soft_targets(folder, size, tuple(shape["soft"])),
    )


def _open_soft_targets(folder: Path, size: tuple[int, int], soft: tuple[int, int]) -> SoftTargetTable:
    return SoftTargetTable(
        mapped(folder / "soft_ids.i32", soft, torch.int32),
        mapped(folder / "soft_logprobs.f32", soft),
        mapped(folder / "soft_offsets.i64", size, torch.int64),
    )
