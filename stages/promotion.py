"""Decides whether a candidate student takes the promoted student's place, and keeps the record of all decisions.

Both students are compared on identical items. The promoted student's recorded answers are used if they answer the same items in the same
way; otherwise it answers this run's items now. The first candidate is compared with its own base. `pipeline/analysis/promotion_rule.py`
has the rule. Only then is the pointer `promoted` moved; its history keeps earlier versions for `mind rollback`. Decisions are in
`decisions/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from pipeline.analysis.accuracy_numbers import PairedChange
from pipeline.analysis.promotion_rule import Decision, Policy, decide
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.summaries import EvaluationSummary
from stages.shared.answering import items_digest
from stages.shared.compare_accuracy import COUNTED, compare_students
from stages.shared.draws import DRAWS_COUNTED, compare_draws
from storage.artifact import Artifact
from storage.catalogue import point, read_pointer
from storage.documents import RecordedDecision, Target, parse_decision
from storage.errors import ArtifactError, ArtifactMissing
from storage.store import Store

Evaluate = Callable[[Mapping[str, str]], Artifact]
"""Evaluates a run on its own items with some artifacts replaced by others: {"training": fingerprint of another student}."""


PROMOTED: Final = "promoted"


STUDENT: Final = "training"


ROLLED_BACK: Final = "Rolled back by hand."
"""A reason that blocks a candidate whichever student has been promoted since."""


def student_of(target: Target) -> str:
    """The fingerprint of the student that a pointer names or named.

    Raises:
        ArtifactError: it names none.
    """
    if STUDENT not in target["stages"]:
        raise ArtifactError(
            f"pointers/{PROMOTED}.json: names no {STUDENT} artifact; remove it; `mind promote RUN` sets it again"
        )
    return target["stages"][STUDENT]


def decisions(store: Store) -> list[RecordedDecision]:
    """All decisions, oldest first.

    Raises:
        ArtifactError: one is damaged, so it is unknown what it refused.
    """
    names = [name for name in store.backend.names("decisions") if name.endswith(".json")]
    found = ((name, store.backend.read(f"decisions/{name}")) for name in names)
    return [parse_decision(content, name) for name, content in found if content is not None]


def why_not(store: Store, candidate: str) -> str | None:
    """The reason not to distil, or None."""
    incumbent = read_pointer(store.backend, PROMOTED)
    if incumbent is not None and student_of(incumbent) == candidate:
        return f"nothing changed: {STUDENT}/{candidate} has been the promoted student since {incumbent['updated'][:19]}"
    standing = None if incumbent is None else student_of(incumbent)
    for decision in decisions(store):
        holds = decision["incumbent"] == standing or ROLLED_BACK in decision["reasons"]
        if decision["candidate"] == candidate and not decision["promote"] and holds:
            return f"nothing changed: {STUDENT}/{candidate} was refused on {decision['when'][:19]}: {' '.join(decision['reasons'])}"
    return None


def _asked(store: Store, evaluation: Artifact) -> dict[str, Any]:
    """What identifies an evaluation: its questions, its settings and the stage's version."""
    identity = evaluation.manifest["identity"]
    questions = store.open("questions", evaluation.manifest["inputs"]["questions"])
    how = {name: identity["config"][name] for name in ("prompts", "evaluation")}
    return {"version": identity["version"], **how, "what": items_digest(questions, how["evaluation"]["use"])}


def compare(config: RunConfig, incumbent: Mapping[str, str], evaluate: Evaluate, sampled: bool) -> dict[str, PairedChange]:
    """Candidate − incumbent by group and set, on identical items; `evaluate` lets the incumbent answer them if it has not yet."""
    store = store_of(config)
    candidate = store.open("evaluation", plan(config)["evaluation"].fingerprint)
    answered = incumbent.get("evaluation")
    if answered is not None and store.exists("evaluation", answered):
        before = store.open("evaluation", answered)
        if _asked(store, before) == _asked(store, candidate):
            return _compared(before, candidate, sampled)
    return _compared(evaluate({STUDENT: incumbent[STUDENT]}), candidate, sampled)


def _compared(before: Artifact, after: Artifact, sampled: bool) -> dict[str, PairedChange]:
    if sampled:
        theirs, ours = (artifact.batches("draws", DRAWS_COUNTED) for artifact in (before, after))
        changes = compare_draws((theirs, "student"), (ours, "student"))
    else:
        changes = compare_students(before.batches("items", COUNTED), after.batches("items", COUNTED))
    assert changes is not None, "both evaluations have identical items"
    return changes


def check_policy(config: RunConfig, policy: Policy) -> None:
    """Refuse a policy that the run's evaluation cannot serve, before anything runs.

    Raises:
        ConfigError: it compares sampled answers, and there are none.
    """
    if policy.sampled and config.evaluation.draws is None:
        raise ConfigError(
            "evaluation.draws: sampled answers are to be compared, and there are none; set draws, for example {count: 8}"
        )


def judge(config: RunConfig, policy: Policy, evaluate: Evaluate) -> tuple[Decision, str | None]:
    """The decision on a finished candidate, and the student that it was compared with (None: its own base).

    Raises:
        ConfigError: the policy compares sampled answers, and the run has none.
    """
    check_policy(config, policy)
    store = store_of(config)
    evaluation = EvaluationSummary.of(store.open("evaluation", plan(config)["evaluation"].fingerprint))
    ood = [name for group, name in evaluation.sets if group == "ood"]
    incumbent = read_pointer(store.backend, PROMOTED)
    if incumbent is None:
        changes = evaluation.drawn_against_base if policy.sampled else evaluation.student_against_base
        if changes is None:
            raise ArtifactError(
                "the evaluation was made by an earlier version, which did not compare sampled answers; remove it and run again"
            )
        return decide(changes, ood, policy), None
    return decide(compare(config, incumbent["stages"], evaluate, policy.sampled), ood, policy), student_of(incumbent)


def settle(config: RunConfig, decision: Decision, incumbent: str | None) -> dict[str, Any]:
    """Write the decision, and move `promoted` if it says so; returns the written document."""
    store, stages = store_of(config), {name: item.fingerprint for name, item in plan(config).items()}
    document = _write(store, config.name, stages[STUDENT], incumbent, decision)
    if decision.promote:
        point(store.backend, PROMOTED, config.name, stages)
    return document


def _write(store: Store, run: str, candidate: str, incumbent: str | None, decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="microseconds"),
        "run": run,
        "candidate": candidate,
        "incumbent": incumbent,
        "promote": decision.promote,
        "reasons": decision.reasons,
        "figures": decision.figures,
    }
    name = document["when"].replace(":", "-")
    store.backend.write(f"decisions/{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return document


def rollback(store: Store) -> Target:
    """Move `promoted` back to the previous version; scheduled runs do not promote the current one again. Returns the new pointer.

    Raises:
        ArtifactMissing: there is no previous version.
    """
    now = read_pointer(store.backend, PROMOTED)
    if now is None or not now["history"]:
        raise ArtifactMissing(f"{PROMOTED}: no earlier version; `mind promote RUN` sets one")
    before = now["history"][0]
    refused = Decision(False, [ROLLED_BACK], {"changes": {}, "corrected_p": {}})
    _write(store, now["run"], student_of(now), student_of(before), refused)
    point(store.backend, PROMOTED, before["run"], before["stages"], now["history"][1:])
    return before
