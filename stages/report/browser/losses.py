"""Reads a question's losses from the inertia state that training leaves.

The state has a row per question that was trained on, in the order of the rationales: `last_NK`, the loss of a rationale when a step last
measured it (not after the last step), and `visits_NK`, how often that was, the base student's loss before the first step included.

Axes: N questions of the set, K perspectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from storage.artifact import Artifact


class Measured(NamedTuple):
    """The loss that training measured last, and how many steps measured it; None if no step did."""

    loss: float | None
    steps: int


class Losses:
    """Measured losses by question. Questions are asked for in the order of the kept rationales, each exactly once."""

    def __init__(self, training: Artifact, names: Sequence[str], questions: int) -> None:
        from safetensors import safe_open

        config: Mapping[str, Any] = training.manifest["config"]
        settings = config["training"]
        self._names = names
        self._wanted = set(names if settings.get("perspectives") is None else settings["perspectives"])
        self._out_N: Any = None
        if settings.get("hold_out"):
            # Not at the top: it brings transformers, which takes longer to load than the rest of the stage to run.
            from pipeline.training.training_set import held_out

            self._out_N = held_out(questions, settings["hold_out"], config["seed"])
        self._file: Any = safe_open(training.path("inertia.safetensors"), "np")
        self._asked = self._row = 0

    def next_question(self, kept: Sequence[str], wanted: bool) -> tuple[bool, dict[str, Measured]]:
        """Whether the next question was held out, and its losses by perspective; empty unless `wanted` and trained on.

        `kept` are the perspectives of its rationales.
        """
        out = self._out_N is not None and bool(self._out_N[self._asked])
        self._asked += 1
        if out or self._wanted.isdisjoint(kept):
            return out, {}
        row, self._row = self._row, self._row + 1
        if not wanted:
            return out, {}
        last_K, visits_K = (self._file.get_slice(name)[row] for name in ("last_NK", "visits_NK"))
        steps_K = [max(0, int(visits) - 1) for visits in visits_K.reshape(-1)]
        found = zip(self._names, last_K.reshape(-1).tolist(), steps_K, strict=True)
        return out, {name: Measured(loss if steps else None, steps) for name, loss, steps in found if name in self._wanted}
