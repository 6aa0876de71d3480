"""Derives the findings of the latent analysis, positive or negative, as sentences for the reader.

A claim is made only if it survives the controls. Clusters of specialists are evidence of learned perspectives only if the text, the base
and the base shifted by constants all cluster less well, whichever fifth of the questions is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipeline.arms import SPECIALIST
from stages.latent_rows import LEAST

CLUSTERED: Final = 0.2
"""Below this adjusted Rand index there is nothing that one would call clusters."""
MARGIN: Final = 0.05
"""Of two silhouettes."""

Json = Mapping[str, Any]


def _spread(values: Mapping[str, float | None], form: str) -> str:
    """Each model's figure where it has one, and the specialists' from lowest to highest."""
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
    fewer = f" There are {there} that none was trained on: --questions {there} takes those alone." if there >= LEAST else ""
    return (
        f"Synthesis has no split that was held out, so models read what they were trained on. Of the {rows['questions']} questions, so "
        f"many were in training: {_spread(rows['trained'], 'd')}.{fewer}"
    )


def _clusters(found: Mapping[str, Json]) -> list[str]:
    said = {name: f"{row['ari']:.2f} [{row['ari_range'][0]:.2f}, {row['ari_range'][1]:.2f}]" for name, row in found.items()}
    figures = f"text {said['text']}, base {said['base']}, moved base {said['moved']}"
    mine, lowest = said["specialists"], found["specialists"]["ari_range"][0]
    highest = {name: found[name]["ari_range"][1] for name in ("text", "base", "moved")}
    if found["specialists"]["ari"] < CLUSTERED:
        claim = f"The specialists' states do not cluster by perspective (ARI {mine}; {figures})."
    elif max(highest["text"], highest["base"]) >= lowest:
        claim = (
            f"The specialists' clusters are NO evidence of what they learned: they agree with the perspectives with ARI {mine}, and "
            f"controls that learned nothing do so as well ({figures})."
        )
    elif highest["moved"] >= lowest:
        claim = (
            f"The specialists' states cluster better (ARI {mine}) than text and base, but no better than the base moved by a constant for "
            f"each specialist ({figures}): what is told apart may be different networks, not ways of reasoning."
        )
    else:
        claim = (
            f"The specialists' states cluster by perspective (ARI {mine}) better than every control ({figures}). A linear probe names "
            f"the perspective from the text alone in {found['text']['probe']['accuracy']:.0%} of the rationales, and from the base's "
            f"states in {found['base']['probe']['accuracy']:.0%}: what is new is how far apart they lie, not that they differ."
        )
    reader = found["dealt"]["by_reader"]["ari"]
    return [
        claim,
        f"With rationales dealt out to specialists at random, states cluster by the text with ARI {found['dealt']['ari']:.2f} and by who "
        f"reads it with ARI {reader:.2f}.",
    ]


def _apart(left: Json, right: Json) -> bool:
    """Two standard errors of a difference of two figures; as both are of the same rows, it errs towards wide."""
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
        f"Effective rank of the last layer: {_spread(values, '.1f')}. States spread in fewer directions than the base's in {named(lower)}, "
        f"in more in {named(higher)}; more than two standard errors over questions count."
    )


def _drift(models: Mapping[str, Json]) -> str:
    values = {name: row["cka"]["value"] for name, row in models.items() if name != "base"}
    return f"Similarity of the last layer to the base's (CKA, 1 is the same): {_spread(values, '.2f')}."


def _networks(found: Json) -> str:
    mine, others = (found[key]["silhouette"] for key in ("specialists", "others"))
    said = (
        f"Before any rationale is read, specialists' states are told apart by network (silhouette {mine:.2f}; those of "
        f"{' and '.join(found['others']['networks'])}, which were all taught every perspective, {others:.2f})"
    )
    return f"{said}: being another network is enough for that." if others > mine - MARGIN else f"{said}."


def _answers(models: Mapping[str, Json]) -> str:
    def each(where: str) -> str:
        values = {name: row["answer"][where]["inside_questions"]["value"] for name, row in models.items()}
        return _spread({name: None if value is None else value * 100 for name, value in values.items()}, ".0f")

    return (
        "At the answer, per cent of the states' variance that hang on the rationale and not on the question: behind the whole rationale "
        f"{each('whole')}; behind one without its last sentence {each('cut')}."
    )


def _span(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def _assistant(found: Json, unseen: bool) -> list[str]:
    said, name = [], found["model"]
    p, tasks = found["preferences"]["p"], found["preferences"]["tasks"]
    if p is None:
        said.append(
            f"All questions have one task, so whether {name}'s MetaNet prefers other perspectives for other tasks is not seen."
        )
    else:
        spans = {key: [_span(row[when][key] for row in tasks) for when in ("after", "before")] for key in tasks[0]["after"]}
        most = max(spans, key=lambda key: spans[key][0])
        after, before = (span * 100 for span in spans[most])
        word = "differs between tasks" if p < 0.05 else "is not seen to differ between tasks"
        said.append(
            f"What {name}'s MetaNet prefers {word} (p = {p:.2g}), most for {most}: by {after:.1f} points, before training by {before:.1f}."
        )
    scores = found["audit"]["score and low loss"]
    where = "questions that were not trained on" if unseen else "questions that were trained on, where selection helps itself"
    parts = [
        f"{scores[key]['value']:+.2f} {words}"
        for key, words in (
            ("across_perspectives", "across a question's perspectives"),
            ("across_questions", "across a perspective's questions"),
        )
        if scores[key]["value"] is not None
    ]
    if parts:
        said.append(f"Its final scores and a low loss of the final student, rank correlation on {where}: {', '.join(parts)}.")
    length = found["audit"]["weight and length"]["across_perspectives"]
    if length["value"] is not None and length["error"] is not None and abs(length["value"]) > 2 * length["error"]:
        word = "longer" if length["value"] > 0 else "shorter"
        said.append(f"Of a question's rationales the {word} ones have more weight (rank correlation {length['value']:+.2f}).")
    return said


def findings(document: Json) -> list[str]:
    """One sentence or two on each thing."""
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
