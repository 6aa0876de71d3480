"""The latent analysis of an experiment: `python -m stages.experiments.latent.analysis --config FILE --runs RUNS.json --folder FOLDER`.

Reads the artifacts of the runs of one seed; trains nothing. RUNS.json maps each arm to its assignments, in the form that `--set` takes.
The undistilled base, the specialists (one perspective each), `uniform` and MIND read the same rationales, one model at a time
(`stages/experiments/latent/rows.py`, `stages/experiments/latent/reading.py`). From their states follow the figures
(`stages/experiments/latent/figures.py`, `stages/experiments/latent/metanet.py`), the findings (`stages/experiments/latent/findings.py`)
and the page (`stages/experiments/latent/page.py`).

The paper shows that features of eight specialists fall into eight clusters. The training texts alone, or the states of a student that was
never trained on them, may cluster as well; every table shows both as controls (method, section 7).

Axes: B rationales, Q questions, L layers, D hidden size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from pipeline.baselines_and_ablations import SPECIALIST
from pipeline.config.models import Weights, with_weights_at
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import MindError
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import pad_token
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.progress import Progress
from stages.core.summaries import SynthesisSummary
from stages.experiments.latent.figures import Last, clusters, compared, model_figures, networks, together
from stages.experiments.latent.findings import findings
from stages.experiments.latent.metanet import RunArtifacts, assistant, tasks_of
from stages.experiments.latent.page import Figures, draw, write
from stages.experiments.latent.reading import Reading, read
from stages.experiments.latent.rows import Choice, Rows, choose_questions, read_rows, read_sets, trained_on
from storage.errors import StorageError

SAYS: Final = {
    "text": "the text alone",
    "base": "the base, untrained",
    "moved": "the base, shifted by each specialist's mean",
    "dealt": "specialists, rationales assigned at random",
    "specialists": "specialists, each on its own perspective",
}

Indices = NDArray[np.integer]
Floats = NDArray[np.floating]


def open_runs(runs: Mapping[str, RunConfig]) -> dict[str, RunArtifacts]:
    """Open the artifacts of every run that the analysis reads.

    Raises:
        ArtifactMissing: a run is not finished.
    """
    found = {}
    for name, run in runs.items():
        store, planned = store_of(run), plan(run)
        opened = (store.open(stage, planned[stage].fingerprint) for stage in ("questions", "synthesis", "training"))
        found[name] = RunArtifacts(name, run, *opened)
    return found


class Chosen(NamedTuple):
    """The rationales that all models read, and the number of their questions that each model was trained on."""

    choice: Choice
    rows: Rows
    trained: dict[str, int]


def choose_rows(made: Mapping[str, RunArtifacts], questions: int, seed: int) -> Chosen:
    """Select questions and rationales from MIND's synthesis."""
    mind = made["mind"]
    sets = {item.synthesis.fingerprint: read_sets(item.synthesis) for item in made.values()}
    trained = {name: trained_on(item.run, sets[item.synthesis.fingerprint]) for name, item in made.items()}
    choice = choose_questions(sets[mind.synthesis.fingerprint], set[str]().union(*trained.values()), questions, seed)
    rows = read_rows(mind.synthesis, choice.ids, mind.run, load_tokenizer(mind.run.student))
    return Chosen(choice, rows, {name: len(ids & set(choice.ids)) for name, ids in trained.items()})


class Read(NamedTuple):
    """Results kept of each model that has been read, by name, the base first."""

    figures: dict[str, dict[str, Any]]
    last: dict[str, Last]
    loss: dict[str, Floats]


def read_all(
    sources: Mapping[str, Weights], run: RunConfig, rows: Rows, task_Q: Indices, seed: int, progress: Progress
) -> Read:
    """Compute every model's figures, with one model in memory at a time."""
    pad = pad_token(load_tokenizer(run.student))
    base: Reading | None = None
    found = Read({}, {}, {})
    progress.start("states and clusters", len(sources), "models")
    for name, source in sources.items():
        reading = read(source, run, rows, pad)
        base = base or reading
        last_BD = reading.rationale_BLD[:, -1]
        found.last[name], found.loss[name] = Last(last_BD, reading.prompt_QD), reading.loss_B
        mine = clusters(last_BD, rows.perspective_B, rows.question_B, rows.names, seed)
        found.figures[name] = {**model_figures(reading, base, rows, task_Q, seed), "clusters": mine}
        progress.advance(1, name)
    return found


def compare(made: Mapping[str, RunArtifacts], questions: int, seed: int, progress: Progress) -> tuple[dict[str, Any], Figures]:
    """Let all models read the rationales and compare them; returns the figures as plain JSON data, and the plots."""
    run, chosen = made["mind"].run, choose_rows(made, questions, seed)
    rows, known = chosen.rows, tasks_of(made["mind"].questions)
    task_Q = np.unique([known[name] for name in rows.ids], return_inverse=True)[1]
    students = {
        name: with_weights_at(run.student, made[name].training.path("student")) for name in sorted(made, key=_specialists_last)
    }
    found = read_all({"base": run.student, **students}, run, rows, task_Q, seed, progress)

    progress.start("controls and plots", 4, "parts")
    specialists = {name: found.last[name] for name in made if name.startswith(SPECIALIST)}
    others = {name: found.last[name] for name in made if name not in specialists}
    beside = together(found.last["base"], list(specialists.values()), rows, seed)
    clustered = compared(beside, rows, seed)
    progress.advance(1, "clusters")
    told_apart = {"specialists": networks(specialists, seed), "others": networks(others, seed)}
    progress.advance(1, "networks")
    assisted = [item for item in made.values() if item.run.training.mixture.weights == "metanet"]
    assistants = [assistant(item, rows, found.loss[item.name], found.loss["base"], seed) for item in assisted]
    progress.advance(1, "MetaNet")
    document = {
        "seed": seed,
        "rows": _described(chosen, made["mind"]),
        "clusters": [{"name": name, "says": says, **clustered[name]} for name, says in SAYS.items()],
        "models": [{"model": name, **mine} for name, mine in found.figures.items()],
        "networks": told_apart,
        "assistants": assistants,
    }
    # A JSON round trip turns NaN into null.
    plain = orjson.loads(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    shown = {says: beside.states[name] for name, says in SAYS.items()} | {
        name: last.rationale_BD for name, last in others.items()
    }
    figures = draw(plain, shown, rows, {item.name: item.training for item in assisted}, seed)
    progress.advance(1, "t-SNE")
    return {**plain, "findings": findings(plain)}, figures


def _specialists_last(name: str) -> bool:
    return name.startswith(SPECIALIST)


def _described(chosen: Chosen, mind: RunArtifacts) -> dict[str, Any]:
    return {
        "questions": len(chosen.rows.ids),
        "rationales": len(chosen.rows.rationales),
        "perspectives": chosen.rows.names,
        "kept_questions": SynthesisSummary.of(mind.synthesis).kept_questions,
        "unseen": chosen.choice.unseen,
        "unseen_there_are": chosen.choice.unseen_there_are,
        "trained": {"base": 0, **chosen.trained},
    }


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.experiments.latent.analysis")
    parser.add_argument("--config", type=Path, required=True, help="the runs' common YAML file")
    parser.add_argument("--runs", type=Path, required=True, help="a JSON file: for each arm, a list of KEY=VALUE")
    parser.add_argument("--folder", type=Path, required=True, help="the folder to write the figures to")
    parser.add_argument("--questions", type=int, default=100, help="number of questions whose rationales are read")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample of questions and of the analyses")
    parser.add_argument("--progress", type=Path, required=True, help="the file to write progress to")
    arguments = parser.parse_args()
    try:
        listed = json.loads(arguments.runs.read_text())
        runs = {name: load_config(arguments.config, tuple(changes)) for name, changes in listed.items()}
        progress = Progress(arguments.progress, "latent")
        write(*compare(open_runs(runs), arguments.questions, arguments.seed, progress), arguments.folder)
    except (MindError, StorageError) as error:
        print(f"mind: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
