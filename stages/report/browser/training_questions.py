"""What the browser shows of a training question: every sample, its fate in synthesis, its losses and MetaNet's weights.

Reads the shards of samples, rationales and features side by side, since synthesis gives a shard of samples and its results the same number.
A shard is in memory at a time, and only its chosen questions are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.synthesis import Synthesis
from pipeline.generation.repetition import LOOPING
from pipeline.grading.grade import Outcome
from pipeline.perspectives.perspective import Perspective
from pipeline.rationales.curation import SAMPLE, place
from pipeline.text_digests import digest
from stages.core.summaries import SynthesisSummary
from stages.report.browser.choice import clipped
from stages.report.browser.kept_or_why import Rules, verdicts
from stages.report.browser.losses import Losses, Measured
from storage.artifact import Artifact
from storage.atomic import read_parquet

if TYPE_CHECKING:
    from stages.shared.metanet_weights import Weigh, Weighed

_COLUMNS: Final = [*SAMPLE, "repetition", "rule", "completion_tokens"]
_OF_ONE: Final = 4
"""Samples shown of one question and perspective, kept ones first; `sampling.tries` is 4 by default."""
TRAIN: Final = "train"

Key = tuple[str, str]
Row = Mapping[str, Any]


class _Kept(NamedTuple):
    """What is known of the kept rationales of a shard, by question and perspective, and which questions were held out of training."""

    base: dict[Key, float]
    measured: dict[Key, Measured]
    before: dict[Key, Weighed]
    after: dict[Key, Weighed]
    held_out: set[str]


def sampled(sampling: Artifact) -> Iterator[tuple[str, str]]:
    """(set, id) of every question that has samples."""
    for path in sampling.files("samples"):
        for question_id in read_parquet(path, ["question_id"])["question_id"].unique().to_pylist():
            yield TRAIN, question_id


def _rates(synthesis: Artifact, chosen: frozenset[int]) -> dict[str, list[int]]:
    """Right and all attempts of the base student at the chosen questions; empty if it made none."""
    if synthesis.manifest["config"]["synthesis"]["keep_easy"] >= 1:
        return {}
    found: dict[str, list[int]] = {}
    for batch in synthesis.batches("attempts", ["question_id", "outcome"]):
        for question_id, outcome in zip(batch["question_id"].to_pylist(), batch["outcome"].to_pylist(), strict=True):
            if digest(question_id) in chosen:
                rate = found.setdefault(question_id, [0, 0])
                rate[0], rate[1] = rate[0] + (outcome == Outcome.CORRECT), rate[1] + 1
    return found


def _rules(synthesis: Artifact, perspectives: Sequence[Perspective]) -> Rules:
    config = synthesis.manifest["config"]
    settings, seed = Synthesis.model_validate(config["synthesis"]), int(config["seed"])
    last = None
    if settings.max_questions is not None:
        every = synthesis.batches("rationales", ["question_id"])
        last = max(place(one, seed) for batch in every for one in batch["question_id"].unique().to_pylist())
    return Rules(settings, perspectives, seed, last)


def _of(table: pa.Table, ids: set[str]) -> pa.Table:
    """The rows of some questions."""
    return table.filter(pc.is_in(table["question_id"], value_set=pa.array(sorted(ids), pa.string())))


def _kept(paths: Sequence[Any], losses: Losses, ids: set[str], weigh: Sequence[Weigh | None]) -> _Kept:
    """The kept rationales of the wanted questions of a shard; losses move on by all questions of the shard."""
    rationales = read_parquet(paths[0], ["question_id", "perspective", "base_loss"]).to_pylist()
    found = _Kept({}, {}, {}, {}, set())
    for question_id, rows in groupby(rationales, key=lambda row: row["question_id"]):
        mine, wanted = {row["perspective"]: row["base_loss"] for row in rows}, question_id in ids
        out, measured = losses.next_question(list(mine), wanted)
        if not wanted:
            continue
        found.base.update({(question_id, name): loss for name, loss in mine.items()})
        found.measured.update({(question_id, name): measured[name] for name in mine if name in measured})
        if out:
            found.held_out.add(question_id)
    if found.base:
        features = _of(read_parquet(paths[1]), ids)
        for weights, known in zip(weigh, (found.before, found.after), strict=True):
            known.update(weights(features, found.base) if weights is not None else {})
    return found


def training_parts(
    inputs: Mapping[str, Artifact], perspectives: Sequence[Perspective], chosen: frozenset[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, what the page shows beside the question itself) of every chosen training question."""
    from stages.shared.metanet_weights import weigher

    sampling, synthesis, training = (inputs[name] for name in ("sampling", "synthesis", "training"))
    names = [item.name for item in perspectives]
    rates, rules = _rates(synthesis, chosen), _rules(synthesis, perspectives)
    losses = Losses(training, names, SynthesisSummary.of(synthesis).kept_questions)
    weigh = [weigher(synthesis, training, artifact.path("metanet.safetensors")) for artifact in (synthesis, training)]
    tables = (sampling.files("samples"), synthesis.files("rationales"), synthesis.files("features"))
    for samples, *results in zip(*tables, strict=True):
        there = read_parquet(samples, ["question_id"])["question_id"].unique().to_pylist()
        ids = {question_id for question_id in there if digest(question_id) in chosen}
        kept = _kept(results, losses, ids, weigh)
        if not ids:
            continue
        rows = _of(read_parquet(samples, _COLUMNS), ids).to_pylist()
        for question_id, mine in groupby(rows, key=lambda row: row["question_id"]):
            yield question_id, _part(list(mine), kept, rates.get(question_id), rules, names)


def _part(rows: list[Row], kept: _Kept, rate: list[int] | None, rules: Rules, names: Sequence[str]) -> dict[str, Any]:
    question_id = rows[0]["question_id"]
    mine = [name for name in names if (question_id, name) in kept.base]
    state, said = verdicts(rows, mine, rate[0] / rate[1] if rate else None, rules)
    if question_id in kept.held_out:
        state = "kept, but held out of training"
    numbers = {name: number for number, name in enumerate(names)}
    order = sorted(zip(rows, said, strict=True), key=lambda one: (numbers[one[0]["perspective"]], one[1] != "kept"))
    shown = [
        _rationale(row, why, kept, numbers)
        for _, of_one in groupby(order, key=lambda one: one[0]["perspective"])
        for row, why in list(of_one)[:_OF_ONE]
    ]
    return {"attempts": rate, "state": state, "rationales": shown, "left_out": len(rows) - len(shown)}


def _rationale(row: Row, why: str, kept: _Kept, numbers: Mapping[str, int]) -> dict[str, Any]:
    key = (row["question_id"], row["perspective"])
    found = {"perspective": numbers[row["perspective"]], "sample": row["sample_index"], "why": why, **said(row)}
    if why != "kept":
        return found
    before, after, last = kept.before.get(key), kept.after.get(key), kept.measured.get(key)
    return found | {
        "base_loss": kept.base[key],
        "last_loss": last.loss if last else None,
        "steps": last.steps if last else 0,
        "scores": [before.score if before else None, after.score if after else None],
        "weights": [before.weight if before else None, after.weight if after else None],
    }


def said(row: Row) -> dict[str, Any]:
    """A graded text: how it was read, and the text itself."""
    loops = row["outcome"] == Outcome.TRUNCATED and (row["repetition"] or 0) > LOOPING
    return {
        "outcome": "looping" if loops else row["outcome"],
        "read": None if row["answer"] is None else clipped(row["answer"]),
        "rule": row["rule"],
        "tokens": row["completion_tokens"],
        "text": clipped(row["text"]),
    }
