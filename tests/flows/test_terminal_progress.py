"""Progress in a log: a line where something changed, and none where nothing did."""

from __future__ import annotations

from typing import Any

import pytest

from flows import terminal_progress
from flows.terminal_progress import watching

FOUND: dict[str, Any] = {
    "stage": "references", "label": "answers", "done": 0, "inside": 0.0, "total": 320, "unit": "items", "rate": 0.0,
    "seconds_left": None, "note": "",
}  # fmt: skip


def test_a_line_is_printed_only_when_something_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_progress, "_LINE_SECONDS", -1.0)
    with watching("references") as show:
        for _ in range(5):
            show(FOUND)
        for _ in range(5):
            show({**FOUND, "inside": 12.0, "seconds_left": 99.0, "note": "12 texts, 130 tokens/s"})
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "references: answers: 0/320 items",
        "references: answers: 12/320 items, 12 texts, 130 tokens/s, 99 s left",
    ]
