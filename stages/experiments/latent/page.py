"""Writes the latent analysis into one folder, replacing earlier files: `latent.json`, `latent-*.png`, and the page `latent.html`.

Axes: B rationales, K perspectives, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.analysis import experiment_plots as plots
from pipeline.analysis.representations import principal_components, tsne
from pipeline.baselines_and_ablations import SPECIALIST
from stages.experiments.latent.rows import Rows
from stages.shared.pages import embedded, png, render
from storage.artifact import Artifact
from storage.atomic import write_bytes

TEMPLATE: Final = Path(__file__).with_name("latent.html")
Figures = dict[str, Figure]


def draw(
    document: Mapping[str, Any],
    states: Mapping[str, NDArray[np.floating]],
    rows: Rows,
    trainings: Mapping[str, Artifact],
    seed: int,
) -> Figures:
    """t-SNE of the states, one panel per title; similarity to the base by layer; and the weights of every training that has a MetaNet."""
    points = {title: tsne(principal_components(states_BD), seed) for title, states_BD in states.items()}
    similar = {row["model"]: row["cka_by_layer"] for row in document["models"] if row["model"] != "base"}
    found = {
        "states": plots.states_map(points, rows.perspective_B, rows.names, ""),
        "cka": plots.similarity_by_layer(similar, SPECIALIST),
    }
    for name, training in trainings.items():
        steps = training.table("steps", ["alpha_K"])
        names = json.loads(steps.schema.metadata[b"perspectives"])
        found[f"alpha-{name}"] = plots.alpha_heat_map(np.array(steps["alpha_K"].to_pylist()), names)
    return found


def write(document: Mapping[str, Any], figures: Figures, folder: Path) -> None:
    """Write everything into `folder`, the page last."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {name: png(figure) for name, figure in figures.items()}
    for name, image in images.items():
        write_bytes(folder / f"latent-{name}.png", image)
    write_bytes(folder / "latent.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
    page = render(
        TEMPLATE,
        found=document,
        images={name: embedded(image) for name, image in images.items()},
    )
    write_bytes(folder / "latent.html", page)
