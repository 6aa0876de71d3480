"""Plots of experiments with many arms, student sizes or perspectives; each function maps plain data to a matplotlib figure.

`pipeline/analysis/report_plots.py` draws a single run; the colours here are the same. Input shares are in 0..1 and are displayed in per
cent; changes of shares are displayed in percentage points. Every interval is drawn or printed; an arm without a known interval has a
hollow dot.

Axes: B rationales, S optimiser steps, K perspectives.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.analysis.report_plots import MODEL_COLOURS, OKABE_ITO, colour_of
from pipeline.analysis.statistics import Interval

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]

WORSE_TO_BETTER: Final = LinearSegmentedColormap.from_list("worse to better", [OKABE_ITO[3], "#ffffff", OKABE_ITO[0]])
_REFERENCE: Final = OKABE_ITO[0]
_GRID: Final = "#e4e7ec"
_INK: Final = "#344054"
_MISSING: Final = "#f2f4f7"


class PlottedArm(NamedTuple):
    """One arm's accuracy in and out of distribution."""

    name: str
    id: Interval
    ood: Interval


def arms_with_intervals(rows: Sequence[PlottedArm], base: str | None = None, reference: str | None = None) -> Figure:
    """A dot with its 95 % interval per arm and panel, sorted by in-distribution accuracy, with guide lines through `base` and `reference`.

    A base far from all other arms is drawn as an arrow at the edge, so that the other arms remain distinguishable; its value is printed
    like theirs.
    """
    ordered = sorted(rows, key=lambda row: row.id.value)
    shades = {name: shade for name, shade in ((base, MODEL_COLOURS["base"]), (reference, _REFERENCE)) if name is not None}
    figure = Figure(figsize=(8.6, 1.2 + 0.27 * len(ordered)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _arms_panel(left, "in distribution", {row.name: row.id for row in ordered}, base, shades)
    _arms_panel(right, "out of distribution", {row.name: row.ood for row in ordered}, base, shades)
    for label in left.get_yticklabels():
        if label.get_text() in shades:
            label.set(color=shades[label.get_text()], fontweight="bold")
    return figure


def _arms_panel(axes: Axes, title: str, arms: Mapping[str, Interval], base: str | None, shades: Mapping[str, str]) -> None:
    low, high = _limits(arms, base)
    for place, (name, interval) in enumerate(arms.items()):
        shade, value = shades.get(name, _INK), interval.value * 100
        if not low < value < high:
            edge, marker = (0.03, "<") if value < low else (0.97, ">")
            axes.plot(edge, place, marker, color=shade, markersize=7, transform=axes.get_yaxis_transform())
            continue
        known = math.isfinite(interval.low) and math.isfinite(interval.high)
        if known:
            axes.plot([interval.low * 100, interval.high * 100], [place] * 2, color=shade, linewidth=2, solid_capstyle="round")
        axes.plot(value, place, "o", color=shade, markersize=6, markerfacecolor=shade if known else "white")
        if name in shades:
            axes.axvline(value, color=shade, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("accuracy, %")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    values = axes.secondary_yaxis("right")
    values.set_yticks(range(len(arms)), [f"{arm.value * 100:.1f}" for arm in arms.values()], fontsize=8, color=_INK)
    values.tick_params(length=0)
    values.spines["right"].set_visible(False)


def _limits(arms: Mapping[str, Interval], base: str | None) -> tuple[float, float]:
    """Axis limits in per cent for all arms; the base is excluded if it would take more than half of the axis."""

    def ends(names: Iterable[str]) -> tuple[float, float]:
        known = [end * 100 for name in names for end in arms[name] if math.isfinite(end)]
        margin = max(0.06 * (max(known) - min(known)), 0.5)
        return min(known) - margin, max(known) + margin

    everyone, others = ends(arms), ends([name for name in arms if name != base] or arms)
    return everyone if everyone[1] - everyone[0] < 2 * (others[1] - others[0]) else others


def phase_diagram(cells: Mapping[tuple[str, int], Interval]) -> Figure:
    """An advantage by student size (rows, the first size at the bottom) and number of questions (columns, ascending).

    Combinations that were not run are empty cells.
    """
    sizes, counts = list(dict.fromkeys(size for size, _ in cells)), sorted({count for _, count in cells})
    points = np.full((len(sizes), len(counts)), np.nan)
    for (size, count), interval in cells.items():
        points[sizes.index(size), counts.index(count)] = interval.value * 100
    figure = Figure(figsize=(2.6 + 1.1 * len(counts), 1.4 + 0.75 * len(sizes)), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_MISSING)
    most = float(np.nanmax(np.abs(points))) or 1.0
    image = axes.imshow(points, cmap=WORSE_TO_BETTER, vmin=-most, vmax=most, origin="lower", aspect="auto")
    for (size, count), interval in cells.items():
        x, y = counts.index(count), sizes.index(size)
        ink = "white" if abs(interval.value * 100) > 0.85 * most else "black"
        value, low, high = (f"{end * 100:+.1f}".replace("-", "−") for end in interval)
        axes.text(x, y + 0.1, value, ha="center", va="center", color=ink, fontsize=11)
        axes.text(x, y - 0.2, f"{low} to {high}", ha="center", va="center", color=ink, fontsize=7)
        if interval.low > 0 or interval.high < 0:
            axes.plot(x + 0.4, y + 0.36, "o", color=ink, markersize=4)
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axes.set_yticks(range(len(sizes)), sizes)
    axes.set_xticks(np.arange(len(counts) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(sizes) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("questions")
    axes.set_ylabel("student")
    axes.set_title("●  95 % interval excludes zero", fontsize=8, color=_INK, loc="right")
    bar = figure.colorbar(image, ax=axes, label="advantage, percentage points")
    bar.outline.set_visible(False)
    return figure


def states_map(points: Mapping[str, Floats], perspective_B: Indices, names: Sequence[str], title: str) -> Figure:
    """One panel of t-SNE points (B, 2) per model or feature, keyed by title; all panels show the same rows, coloured by perspective.

    No axes, because t-SNE coordinates have no meaning.
    """
    columns = min(4, len(points))
    lines = math.ceil(len(points) / columns)
    figure = Figure(figsize=(max(5.4, 2.7 * columns), 1.1 + 2.6 * lines), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, (panel, points_B2) in zip(panels, points.items(), strict=False):
        for number in range(len(names)):
            own_B2 = points_B2[perspective_B == number]
            axes.scatter(own_B2[:, 0], own_B2[:, 1], s=7, color=colour_of(number), linewidths=0, alpha=0.8)
        axes.set_title(textwrap.fill(panel, 28), fontsize=10)
        axes.axis("on")
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.spines[:].set_color(_GRID)
    handles = [panels[0].scatter([], [], s=28, color=colour_of(number), label=name) for number, name in enumerate(names)]
    figure.legend(handles=handles, frameon=False, ncols=min(4, len(names)), loc="outside lower center", fontsize=9)
    return figure


def alpha_heat_map(alpha_SK: Floats, names: Sequence[str]) -> Figure:
    """Mean weight of each perspective (K, vertical) at each optimiser step (S, horizontal); white is the equal share."""
    figure = Figure(figsize=(8.0, 1.3 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    equal = 1 / len(names)
    shades = TwoSlopeNorm(vmin=0, vcenter=equal, vmax=max(float(np.max(alpha_SK)), 1.01 * equal))
    image = axes.imshow(np.transpose(alpha_SK), cmap=WORSE_TO_BETTER, norm=shades, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="white", linewidth=2)
    axes.tick_params(axis="y", which="both", length=0)
    axes.set_xlabel("optimiser step")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label="mean weight α", pad=0.01, ticks=[0, equal, shades.vmax])
    bar.ax.set_yticklabels(["0", f"1/{len(names)}", f"{shades.vmax:.2f}"])
    bar.outline.set_visible(False)
    return figure


def similarity_by_layer(values: Mapping[str, Sequence[float]], many: str) -> Figure:
    """One line per model: similarity of its states to the base's, from the embeddings (0) to the last layer.

    Models whose name starts with `many` are thin lines of one colour with a single legend entry.
    """
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    axes = figure.subplots()
    crowd = [name for name in values if name.startswith(many)]
    alone = [name for name in values if name not in crowd]
    for name in crowd:
        axes.plot(
            values[name],
            color=MODEL_COLOURS["base"],
            linewidth=1,
            label="specialists" if name == crowd[0] else None,
        )
    for number, name in enumerate(alone):
        axes.plot(values[name], color=colour_of(number), linewidth=2.2, marker="o", markersize=4, label=name)
    layers = max(len(line) for line in values.values())
    axes.set_xticks(range(0, layers, max(1, layers // 12)))
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel("CKA with the base student")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
