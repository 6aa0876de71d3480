"""GSM8K through the whole flow with models that cannot solve it: the run completes and the report states the low accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.end_to_end import Run, mind

pytestmark = [pytest.mark.e2e, pytest.mark.soak]


def test_a_gsm8k_run_completes_and_the_report_states_low_accuracy(tmp_path: Path) -> None:
    answer = mind("run", "configs/gsm8k-miniature.yaml", "--set", f"root={tmp_path}")
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-3000:]
    run = Run(tmp_path, answer.stdout)
    assert run.manifest("questions")["summary"]["train"] == 64
    accuracy = run.manifest("evaluation")["summary"]["accuracy"]
    for model in ("base", "teacher", "student"):
        cell = accuracy[model]["set:gsm8k"]
        assert cell["items"] == cell["correct"] + cell["wrong"] + cell["unparsed"] + cell["truncated"] == 64
        assert cell["accuracy"] < 0.2
    page = (run.artifact("report") / "report.html").read_text()
    assert "In distribution the base answers almost nothing correctly" in page
    assert "truncated" in page
    assert "unparsed" in page
