"""Compares the arms of an experiment on identical items, over all seeds.

Reads the evaluations of all runs and writes into one folder, replacing earlier files: `items.parquet` (a row per arm, seed and item),
`runs.parquet` (a row per arm and seed, with its cost), `arms.json` (the figures of the table), and the page `science.html` with table and
plot. Every arm is compared with one reference arm, paired by seed and item (method, section 6).

Axes: S seeds, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.analysis.statistics import (
    Interval,
    accuracy_interval,
    change_interval,
    change_p,
    detectable_difference,
    holm,
    mcnemar,
    variation,
)
from pipeline.baselines_and_ablations import Arm
from pipeline.grading.grade import Outcome
from stages.core.summaries import EvaluationSummary, TrainingSummary
from stages.experiments.claims import claims
from stages.experiments.total_compute import Compute
from stages.shared.pages import embedded, png, render
from storage.artifact import Artifact
from storage.atomic import write_bytes, write_parquet
from storage.errors import ArtifactError

GROUPS: Final = {"id": "in distribution", "ood": "out of distribution"}
_ANSWER: Final = ["group", "set", "question_id", "outcome"]

Correctness = dict[str, NDArray[np.bool_]]
"""By group: correct or not, in the order of the questions' ids."""


class Finished(NamedTuple):
    """One finished run of the experiment."""

    arm: Arm
    seed: int
    references: Artifact
    training: Artifact
    evaluation: Artifact
    compute: Compute


def _rights(items: pa.Table) -> tuple[Correctness, dict[str, list[str]]]:
    """Correctness of one model's answers by group, and the items in the same order."""
    rows = sorted(zip(*(items[name].to_pylist() for name in _ANSWER), strict=True))
    mine = {group: [row for row in rows if row[0] == group] for group in GROUPS}
    rights = {group: np.array([row[3] == Outcome.CORRECT.value for row in found]) for group, found in mine.items()}
    return rights, {group: [f"{row[1]}/{row[2]}" for row in found] for group, found in mine.items()}


class ArmAnswers(NamedTuple):
    """Correctness by arm and seed, that of the base student, and the set of each item by group."""

    arms: dict[str, dict[int, Correctness]]
    base: Correctness
    sets: dict[str, NDArray[np.str_]]


def _answers(runs: Sequence[Finished]) -> ArmAnswers:
    """All answers.

    Raises:
        ArtifactError: two runs answered different items.
    """
    base, asked = _rights(_of(runs[0].references, "base"))
    found: dict[str, dict[int, Correctness]] = {}
    for run in runs:
        rights, mine = _rights(_of(run.evaluation, "student"))
        if mine != asked:
            raise ArtifactError(
                f"{run.evaluation.folder}: answered different items than the first run; give all runs the same sets"
            )
        found.setdefault(run.arm.name, {})[run.seed] = rights
    sets = {group: np.array([name.split("/", 1)[0] for name in names]) for group, names in asked.items()}
    return ArmAnswers(found, base, sets)


def _by_set(rights: Sequence[Correctness], sets: Mapping[str, NDArray[np.str_]]) -> dict[str, float]:
    """Accuracy on each set, averaged over seeds."""
    return {
        str(name): float(np.mean([seed[group][names == name].mean() for seed in rights]))
        for group, names in sets.items()
        for name in np.unique(names)
    }


def _of(artifact: Artifact, model: str) -> pa.Table:
    items = artifact.table("items", ["model", *_ANSWER])
    return items.filter(pa.compute.equal(items["model"], model))


def _stacked(seeds: Mapping[int, Correctness], chosen: Sequence[int], group: str) -> NDArray[np.bool_]:
    return np.stack([seeds[seed][group] for seed in chosen])


def _compared(arms: Mapping[str, Mapping[int, Correctness]], against: str, group: str) -> dict[str, dict[str, Any]]:
    """Each arm's change against `against` in one group, on the seeds that both have, with p-values corrected for the number of arms."""
    found: dict[str, dict[str, Any]] = {}
    for name, seeds in arms.items():
        shared = sorted(set(seeds) & set(arms[against]))
        if name == against or not shared:
            continue
        before, after = _stacked(arms[against], shared, group), _stacked(seeds, shared, group)
        change, varied = change_interval(before, after), variation(before, after)
        found[name] = {
            "change": change.value,
            "low": change.low,
            "high": change.high,
            "p": change_p(before, after),
            "p_per_seed": [mcnemar(one, other) for one, other in zip(before, after, strict=True)],
            "seeds": len(shared),
            "detectable": detectable_difference(varied.discordance, before.shape[1], varied.seeds_spread, len(shared))
            if len(shared) > 1
            else None,
        }
    for (_, row), corrected in zip(found.items(), holm([row["p"] for row in found.values()]), strict=True):
        row["p_holm"] = corrected
    return found


def compare(runs: Sequence[Finished], against: str) -> dict[str, Any]:
    """All figures of the table, by arm.

    Raises:
        ArtifactError: `against` has no finished run, or two runs answered different items.
    """
    answers, base, sets = _answers(runs)
    if against not in answers:
        raise ArtifactError(f"no finished run of the arm {against!r}; run it first, or compare with another")
    changes = {group: _compared(answers, against, group) for group in GROUPS}
    table = []
    for name, seeds in answers.items():
        arm = next(run.arm for run in runs if run.arm.name == name)
        mine = [run for run in runs if run.arm.name == name]
        row: dict[str, Any] = {"arm": name, "says": arm.says, "kind": arm.kind, "seeds": sorted(seeds)}
        for group in GROUPS:
            shares = [float(seeds[seed][group].mean()) for seed in sorted(seeds)]
            spread = float(np.std(shares, ddof=1)) if len(shares) > 1 else float("nan")
            row[group] = {"mean": float(np.mean(shares)), "spread": spread, "each": shares}
            row[group]["against"] = changes[group].get(name)
            row[group]["interval"] = _interval(_stacked(seeds, sorted(seeds), group), base[group])
        row |= {"sets": _by_set(list(seeds.values()), sets), **_cost(mine)}
        table.append(row)
    found = {
        "against": against,
        "base": {group: float(rights.mean()) for group, rights in base.items()} | {"sets": _by_set([base], sets)},
        "items": {group: len(rights) for group, rights in base.items()},
        "sets": {group: np.unique(names).tolist() for group, names in sets.items()},
        "arms": table,
    }
    return found | {"claims": claims(found)}


def _interval(after_SN: NDArray[np.bool_], base_N: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy of one arm and its gain over the base, with intervals for other seeds and other items."""
    found = accuracy_interval(after_SN)
    gain = change_interval(np.broadcast_to(base_N, after_SN.shape), after_SN)
    return found._asdict() | {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}


def _cost(mine: Sequence[Finished]) -> dict[str, float]:
    """Means over seeds of steps, tokens, kept rationales, seconds, and floating point operations by purpose."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    trained = [TrainingSummary.of(run.training) for run in mine]
    return {
        "steps": mean([item.steps for item in trained]),
        "tokens": mean([item.tokens_trained for item in trained]),
        "kept": mean([item.mean_kept for item in trained]),
        "effective": mean([item.mean_effective_number for item in trained]),
        "compute": mean([run.compute.total for run in mine]),
        **{f"compute_{name}": mean([getattr(run.compute, name) for run in mine]) for name in Compute._fields},
        "seconds_training": mean([run.training.manifest["timing"]["seconds"] for run in mine]),
        "seconds_evaluation": mean([run.evaluation.manifest["timing"]["seconds"] for run in mine]),
    }


def _items(runs: Sequence[Finished]) -> pa.Table:
    """A row per arm, seed and item."""
    parts = []
    for run in runs:
        items = run.evaluation.table("items", [*_ANSWER, "answer", "gold", "completion_tokens"])
        size = items.num_rows
        items = items.add_column(0, "arm", pa.array([run.arm.name] * size).dictionary_encode())
        parts.append(items.add_column(1, "seed", pa.array([run.seed] * size, pa.int32())))
    return pa.concat_tables(parts)


def _runs(runs: Sequence[Finished]) -> pa.Table:
    """A row per arm and seed."""
    rows = []
    for run in runs:
        accuracy = EvaluationSummary.of(run.evaluation).accuracy["student"]
        rows.append(
            {
                "arm": run.arm.name,
                "seed": run.seed,
                "training": run.training.fingerprint,
                "evaluation": run.evaluation.fingerprint,
                **{place: cell.accuracy for place, cell in accuracy.items()},
                **_cost([run]),
            }
        )
    return pa.Table.from_pylist(rows)


def _plot(found: Mapping[str, Any]) -> bytes:
    from pipeline.analysis.experiment_plots import PlottedArm, arms_with_intervals

    def interval(cell: Mapping[str, float]) -> Interval:
        return Interval(cell["value"], cell["low"], cell["high"])

    base = found["base"]
    rows = [PlottedArm("base", *(Interval(base[group], float("nan"), float("nan")) for group in GROUPS))]
    rows += [PlottedArm(row["arm"], *(interval(row[group]["interval"]) for group in GROUPS)) for row in found["arms"]]
    return png(arms_with_intervals(rows, base="base", reference=found["against"]))


def write(runs: Sequence[Finished], against: str, folder: Path) -> dict[str, Any]:
    """Compare the arms and write everything into `folder`; returns the figures.

    Raises:
        ArtifactError: as `compare`.
    """
    found = compare(runs, against)
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / "items.parquet", _items(runs))
    write_parquet(folder / "runs.parquet", _runs(runs))
    write_bytes(folder / "arms.json", orjson.dumps(found, option=orjson.OPT_INDENT_2))
    image = _plot(found)
    write_bytes(folder / "arms.png", image)
    write_bytes(
        folder / "science.html",
        render(Path(__file__).with_name("science.html"), found=found, groups=GROUPS, image=embedded(image)),
    )
    return found
