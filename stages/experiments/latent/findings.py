"""Derives the findings of the latent analysis, positive or negative, as sentences for the reader.

A claim is made only if it survives the controls. Clusters of specialists are evidence of learned perspectives only if the text, the base
and the base shifted by constants all cluster less well, whichever fifth of the questions is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipeline.baselines_and_ablations import SPECIALIST
from stages.experiments.latent.rows import LEAST

CLUSTERED: Final = 0.2
"""Below this adjusted Rand index, states do not count as clustered."""
MARGIN: Final = 0.05
"""Tolerance when two silhouettes are compared."""

Json = Mapping[str, Any]


def _spread(values: Mapping[str, float | None], form: str) -> str:
    """Each model's figure if known, and the specialists' range."""
    known = {name: value for name, value in values.items() if value is not None}
    said = [f"{name} {value:{form}}" for name, value in known.items() if not name.startswith(SPECIALIST)]
    single = [value for name, value in known.items() if name.startswith(SPECIALIST)]
    if single:
        low, high = (f"{end(single):{form}}" for end in (min, max))
        said.append(f"specialists {low}" if low == high else f"specialists {low} to {high}")
    return ", ".join(said) or "unknown"


def _rows(rows: Json) -> str:
    if rows["unseen"]:
        return f"No model was trained on the {rows['questions']} questions whose rationales are read here."
    there = rows["unseen_there_are"]
    fewer = (
        f" No model was trained on {there} of all questions: --questions {there} reads only those." if there >= LEAST else ""
    )
    return (
        f"Synthesis has no held-out split, so models read rationales that they were trained on. Of the {rows['questions']} questions, the "
        f"number that each model was trained on: {_spread(rows['trained'], 'd')}.{fewer}"
    )


def _clusters(found: Mapping[str, Json]) -> list[str]:
    said = {name: f"{row['ari']:.2f} [{row['ari_range'][0]:.2f}, {row['ari_range'][1]:.2f}]" for name, row in found.items()}
    figures = f"text {said['text']}, base {said['base']}, shifted base {said['moved']}"
    mine, lowest = said["specialists"], found["specialists"]["ari_range"][0]
    highest = {name: found[name]["ari_range"][1] for name in ("text", "base", "moved")}
    if found["specialists"]["ari"] < CLUSTERED:
        claim = f"The specialists' states do not cluster by perspective (ARI {mine}; {figures})."
    elif max(highest["text"], highest["base"]) >= lowest:
        claim = (
            f"The specialists' clusters are NO evidence of what they learned: they match the perspectives with ARI {mine}, but "
            f"controls that were not trained on any perspective match them as well ({figures})."
        )
    elif highest["moved"] >= lowest:
        claim = (
            f"The specialists' states cluster better (ARI {mine}) than text and base, but no better than the base shifted by a constant "
            f"for each specialist ({figures}): the clusters may separate networks, not ways of reasoning."
        )
    else:
        claim = (
            f"The specialists' states cluster by perspective (ARI {mine}) better than every control ({figures}). A linear probe predicts "
            f"the perspective from the text alone for {found['text']['probe']['accuracy']:.0%} of the rationales, and from the base's "
            f"states for {found['base']['probe']['accuracy']:.0%}: training increased the distance between clusters; they differed before."
        )
    reader = found["dealt"]["by_reader"]["ari"]
    return [
        claim,
        f"With rationales assigned to specialists at random, states cluster by perspective of the text with ARI "
        f"{found['dealt']['ari']:.2f} and by the specialist that reads it with ARI {reader:.2f}.",
    ]


def _apart(left: Json, right: Json) -> bool:
    """Whether two figures differ by more than two standard errors; conservative, because both are computed on the same rows."""
    return bool(abs(left["value"] - right["value"]) > 2 * math.hypot(left["error"] or 0.0, right["error"] or 0.0))


def _ranks(models: Mapping[str, Json]) -> str:
    ranks = {name: row["clusters"]["effective_rank"] for name, row in models.items()}
    base = ranks.pop("base")
    lower, higher = (
        [name for name, found in ranks.items() if _apart(found, base) and (found["value"] > base["value"]) is above]
        for above in (False, True)
    )

    def named(names: list[str]) -> str:
        single = [name for name in names if name.startswith(SPECIALIST)]
        crowd = [f"{len(single)} of {sum(name.startswith(SPECIALIST) for name in ranks)} specialists"] if single else []
        return ", ".join([name for name in names if name not in single] + crowd) or "no model"

    values = {"base": base["value"], **{name: found["value"] for name, found in ranks.items()}}
    return (
        f"Effective rank of the last layer: {_spread(values, '.1f')}. Lower than the base's: {named(lower)}; "
        f"higher: {named(higher)} (differences of more than two standard errors over questions)."
    )


def _drift(models: Mapping[str, Json]) -> str:
    values = {name: row["cka"]["value"] for name, row in models.items() if name != "base"}
    return f"Similarity of the last layer to the base's (CKA, 1 is the same): {_spread(values, '.2f')}."


def _networks(found: Json) -> str:
    mine, others = (found[key]["silhouette"] for key in ("specialists", "others"))
    said = (
        f"Before any rationale is read, specialists' states cluster by network (silhouette {mine:.2f}; those of "
        f"{' and '.join(found['others']['networks'])}, which were all trained on every perspective, {others:.2f})"
    )
    return f"{said}: different networks alone explain that." if others > mine - MARGIN else f"{said}."


def _answers(models: Mapping[str, Json]) -> str:
    def each(where: str) -> str:
        values = {name: row["answer"][where]["inside_questions"]["value"] for name, row in models.items()}
        return _spread({name: None if value is None else value * 100 for name, value in values.items()}, ".0f")

    return (
        "At the answer, per cent of the states' variance that depends on the rationale and not on the question: after the whole rationale "
        f"{each('whole')}; after a rationale without its last sentence {each('cut')}."
    )


def _span(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def _assistant(found: Json, unseen: bool) -> list[str]:
    said, name = [], found["model"]
    p, tasks = found["preferences"]["p"], found["preferences"]["tasks"]
    if p is None:
        said.append(
            f"All questions have one task, so differences in the preferences of {name}'s MetaNet between tasks cannot be measured."
        )
    else:
        spans = {key: [_span(row[when][key] for row in tasks) for when in ("after", "before")] for key in tasks[0]["after"]}
        most = max(spans, key=lambda key: spans[key][0])
        after, before = (span * 100 for span in spans[most])
        word = "differ between tasks" if p < 0.05 else "do not differ significantly between tasks"
        said.append(
            f"The preferences of {name}'s MetaNet {word} (p = {p:.2g}), most for {most}: by {after:.1f} points, before training by "
            f"{before:.1f}."
        )
    scores = found["audit"]["score and low loss"]
    where = (
        "questions that were not trained on"
        if unseen
        else "questions that were trained on, where selection lowers the loss itself"
    )
    parts = [
        f"{scores[key]['value']:+.2f} {words}"
        for key, words in (
            ("across_perspectives", "across a question's perspectives"),
            ("across_questions", "across a perspective's questions"),
        )
        if scores[key]["value"] is not None
    ]
    if parts:
        said.append(
            f"Rank correlation of its final scores with a low loss of the final student, on {where}: {', '.join(parts)}."
        )
    length = found["audit"]["weight and length"]["across_perspectives"]
    if length["value"] is not None and length["error"] is not None and abs(length["value"]) > 2 * length["error"]:
        word = "longer" if length["value"] > 0 else "shorter"
        said.append(f"Among a question's rationales, {word} ones have more weight (rank correlation {length['value']:+.2f}).")
    return said


def findings(document: Json) -> list[str]:
    """One or two sentences on each result."""
    models = {row["model"]: row for row in document["models"]}
    return [
        _rows(document["rows"]),
        *_clusters({row["name"]: row for row in document["clusters"]}),
        _ranks(models),
        _drift(models),
        _networks(document["networks"]),
        _answers(models),
        *(line for found in document["assistants"] for line in _assistant(found, document["rows"]["unseen"])),
    ]
