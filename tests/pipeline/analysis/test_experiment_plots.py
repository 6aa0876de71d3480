"""Plots of an experiment: order, values, intervals, colours and labels, read from the figure."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.analysis.experiment_plots import (
    PlottedArm,
    alpha_heat_map,
    arms_with_intervals,
    phase_diagram,
    similarity_by_layer,
    states_map,
)
from pipeline.analysis.report_plots import colour_of
from pipeline.analysis.statistics import Interval

ARMS = [
    PlottedArm("uniform", Interval(0.90, 0.88, 0.92), Interval(0.50, 0.47, 0.53)),
    PlottedArm("base", Interval(0.35, 0.33, 0.37), Interval(0.52, 0.49, 0.55)),
    PlottedArm("mind", Interval(0.95, 0.93, 0.97), Interval(0.55, 0.52, 0.58)),
    PlottedArm("one seed", Interval(0.93, -math.inf, math.inf), Interval(0.49, -math.inf, math.inf)),
]


def drawn(figure: Figure) -> Figure:
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    return figure


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_arms_are_sorted_by_id_accuracy_and_compared_arms_are_bold() -> None:
    labels = drawn(arms_with_intervals(ARMS, base="base", reference="mind")).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["base", "uniform", "one seed", "mind"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal", "bold"]


def test_an_arm_without_an_interval_has_a_hollow_dot() -> None:
    figure = drawn(arms_with_intervals(ARMS))
    lines = figure.axes[1].get_lines()
    dots = {int(line.get_ydata()[0]): line for line in lines if line.get_marker() == "o"}
    ends = {int(line.get_ydata()[0]): list(line.get_xdata()) for line in lines if line.get_marker() == "None"}
    assert [float(dots[place].get_xdata()[0]) for place in range(4)] == pytest.approx([52, 50, 49, 55])
    assert [place for place in range(4) if dots[place].get_markerfacecolor() == "white"] == [2]
    assert ends == {0: pytest.approx([49, 55]), 1: pytest.approx([47, 53]), 3: pytest.approx([52, 58])}


def test_a_base_far_below_becomes_an_arrow_and_does_not_stretch_the_axis() -> None:
    near, far = drawn(arms_with_intervals(ARMS, base="base")).axes[1::-1]
    assert far.get_xlim()[0] > 80
    assert [line.get_ydata()[0] for line in far.get_lines() if line.get_marker() == "<"] == [0]
    assert near.get_xlim()[0] < 50
    assert not [line for line in near.get_lines() if line.get_marker() in "<>"]


def test_a_single_arm_can_be_drawn() -> None:
    drawn(arms_with_intervals(ARMS[1:2], base="base", reference="base"))


def test_a_phase_diagram_prints_every_advantage_and_marks_significant_ones() -> None:
    cells = {
        ("small", 400): Interval(-0.03, -0.05, -0.01),
        ("small", 100): Interval(0.004, -0.02, 0.03),
        ("large", 400): Interval(0.05, 0.02, 0.08),
    }
    axes = drawn(phase_diagram(cells)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "400"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["small", "large"]
    assert {"−3.0", "+0.4", "+5.0", "−5.0 to −1.0"} <= set(texts(axes))
    assert {(round(line.get_xdata()[0]), round(line.get_ydata()[0])) for line in axes.get_lines()} == {(1, 0), (1, 1)}
    shown = axes.get_images()[0].get_array()
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown)).tolist() == [[False, False], [True, False]]


def test_a_phase_diagram_of_zero_advantages_can_be_drawn() -> None:
    drawn(phase_diagram({("small", 100): Interval(0.0, -0.01, 0.01)}))


@pytest.mark.parametrize("panels", [1, 3, 6])
def test_states_have_the_colour_of_their_perspective_in_every_panel(panels: int) -> None:
    points_B2 = np.random.default_rng(0).normal(size=(20, 2))
    perspective_B = np.arange(20) % 2
    figure = drawn(states_map({f"m{n}": points_B2 for n in range(panels)}, perspective_B, ["formal", "planning"], "States"))
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [f"m{n}" for n in range(panels)]
    for axes in shown:
        for number, cloud in enumerate(axes.collections[:2]):
            assert cloud.get_offsets().tolist() == points_B2[perspective_B == number].tolist()
            assert to_hex(cloud.get_facecolors()[0]) == colour_of(number).lower()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["formal", "planning"]


def test_equal_mixture_weights_are_drawn_white() -> None:
    alpha_SK = np.full((5, 4), 0.25)
    alpha_SK[2] = [0.7, 0.1, 0.1, 0.1]
    image = drawn(alpha_heat_map(alpha_SK, ["a", "b", "c", "d"])).axes[0].get_images()[0]
    assert image.get_array().tolist() == alpha_SK.T.tolist()
    assert image.cmap(image.norm(0.25))[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert (image.norm.vmin, image.norm.vmax) == (0, 0.7)
    drawn(alpha_heat_map(np.full((1, 4), 0.25), ["a", "b", "c", "d"]))


def test_specialists_are_thin_lines_with_one_shared_legend_entry() -> None:
    lines = {"single-a": [1, 0.9, 0.8], "mind": [1, 0.95, 0.9], "single-b": [1, 0.8, 0.7], "uniform": [1, 0.7, 0.6]}
    axes = drawn(similarity_by_layer(lines, "single-")).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["specialists", "mind", "uniform"]
    shown = {tuple(line.get_ydata()): line.get_linewidth() for line in axes.get_lines()}
    assert set(shown) == {tuple(line) for line in lines.values()}
    assert shown[tuple(lines["single-a"])] == shown[tuple(lines["single-b"])] < shown[tuple(lines["mind"])]
