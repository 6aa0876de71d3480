"""The report's plots; each function maps plain data to a matplotlib figure.

Every model and every perspective has the same colour in all plots; the palette is legible to colour-blind readers (Okabe and Ito).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from pipeline.analysis.accuracy_numbers import ALL_SETS, Accuracy

OKABE_ITO: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999900", "#444444")
MODEL_COLOURS: Final = {"base": "#999999", "student": "#0072B2", "teacher": "#E69F00"}
OUTCOME_COLOURS: Final = {"correct": "#009E73", "wrong": "#D55E00", "unparsed": "#CC79A7", "truncated": "#999999"}


_LEVEL: Final = 90
"""Characters of all labels that fit side by side under a plot."""


def _figure(width: float = 8.0, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def colour_of(number: int) -> str:
    """The colour of a perspective, by its number in the run's order."""
    return OKABE_ITO[number % len(OKABE_ITO)]


def accuracy_by_set(accuracy: Mapping[str, Mapping[str, Accuracy]], labels: Mapping[str, str]) -> Figure:
    """Bars with 95 % intervals: one group of bars per set in `labels` (key -> title), one bar per model."""
    figure, axes = _figure()
    places = np.arange(len(labels))
    models = [model for model in ("base", "student", "teacher") if model in accuracy]
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        found = [accuracy[model][place] for place in labels]
        values = np.array([item.accuracy for item in found]) * 100
        errors = np.abs(np.array([[item.low, item.high] for item in found]).T * 100 - values)
        axes.bar(places + (number - (len(models) - 1) / 2) * width, values, width * 0.95, yerr=errors, capsize=2,
                 color=MODEL_COLOURS[model], label=model, error_kw={"linewidth": 0.8})  # fmt: skip
    axes.set_xticks(places, list(labels.values()))
    if sum(map(len, labels.values())) > _LEVEL:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return figure


def alpha_over_steps(alpha: Sequence[Sequence[float]], names: Sequence[str]) -> Figure:
    """Mixture weight per perspective over steps, smoothed over ten steps, stacked to one."""
    figure, axes = _figure()
    values = np.array(alpha)
    window = min(10, len(values))
    smooth = np.stack([np.convolve(column, np.ones(window) / window, mode="valid") for column in values.T])
    steps = np.arange(smooth.shape[1]) + window
    axes.stackplot(steps, smooth, labels=names, colors=[colour_of(number) for number in range(len(names))], alpha=0.9)
    axes.set_xlim(steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("mean weight α")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def losses_over_steps(log: Mapping[str, Sequence[float]]) -> Figure:
    """Student, consistency and MetaNet losses over steps."""
    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    panels = figure.subplots(1, len(log))
    for number, (axes, (name, values)) in enumerate(zip(np.atleast_1d(panels), log.items(), strict=True)):
        axes.plot(values, color=colour_of(number), linewidth=0.9)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def dev_accuracy_over_steps(accuracy: Mapping[str, Sequence[float]], steps: Sequence[int], exported: int | None) -> Figure:
    """Accuracy on each dev set, and over `all` of them, against the steps taken; a line marks the exported student if it was chosen."""
    figure, axes = _figure()
    for number, (name, values) in enumerate(accuracy.items()):
        style = {"color": "#444444", "linewidth": 1.6} if name == ALL_SETS else {"color": colour_of(number), "linewidth": 0.9}
        axes.plot(steps, np.array(values) * 100, marker=".", label=name, **style)
    if exported is not None:
        axes.axvline(exported, color="#999999", linestyle=":", label="exported")
    axes.set_ylim(0, 100)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("dev accuracy, %")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def loss_by_perspective(losses: Mapping[str, Sequence[float | None]]) -> Figure:
    """The student's loss on each perspective's rationales over steps, smoothed over the measured steps."""
    figure, axes = _figure()
    for number, (name, values) in enumerate(losses.items()):
        points = [(step, value) for step, value in enumerate(values) if value is not None]
        if len(points) < 2:
            continue
        steps, measured = (np.array(column) for column in zip(*points, strict=True))
        window = min(10, len(measured))
        axes.plot(steps[window - 1 :], np.convolve(measured, np.ones(window) / window, mode="valid"),
                  color=colour_of(number), label=name, linewidth=1.2)  # fmt: skip
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss per token, nats")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def outcomes_by_perspective(outcomes: Mapping[str, Mapping[str, int]]) -> Figure:
    """Shares of the outcomes of the teacher's samples, per perspective."""
    figure, axes = _figure()
    names = list(outcomes)
    totals = np.array([max(1, sum(outcomes[name].values())) for name in names])
    left = np.zeros(len(names))
    for kind, colour in OUTCOME_COLOURS.items():
        values = np.array([outcomes[name][kind] for name in names]) / totals * 100
        axes.barh(names, values, left=left, color=colour, label=kind)
        left += values
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("samples, %")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return figure


def token_ledger(ledger: Mapping[str, int]) -> Figure:
    """Token counts from sampling to training."""
    figure, axes = _figure(8.0, 2.4)
    bars = axes.barh(list(ledger), list(ledger.values()), color=colour_of(0))
    axes.bar_label(bars, labels=[f"{value:,}" for value in ledger.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("tokens")
    return figure


def lineage(made_from: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> Figure:
    """Boxes from left to right with an arrow from each artifact to every artifact made from it.

    `made_from` maps each stage, in order, to its inputs; `labels` gives each stage's fingerprint.
    """
    figure, axes = _figure(8.0, 2.2)
    axes.axis("off")
    places = {stage: number for number, stage in enumerate(made_from)}
    for stage, inputs in made_from.items():
        for needed in inputs:
            left, right = places[needed], places[stage]
            neighbours = right - left == 1
            start, end = ((left + 0.4, 0.0), (right - 0.4, 0.0)) if neighbours else ((left, 0.25), (right, 0.25))
            style = f"arc3,rad={0.0 if neighbours else -0.3}"
            axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#667085", "connectionstyle": style})
    for stage, x in places.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": "#f2f7fb", "edgecolor": MODEL_COLOURS["student"]}
        axes.text(x, 0.0, f"{stage}\n{labels[stage]}", ha="center", va="center", fontsize=7, bbox=box)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylim(-0.4, 1.1)
    return figure
