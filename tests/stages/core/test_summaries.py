from __future__ import annotations

import pytest

from stages.core.summaries import EvaluationSummary
from storage.errors import ArtifactError


def test_a_summary_that_no_stage_has_written_is_one_line() -> None:
    with pytest.raises(ArtifactError, match=r"^evaluation/x: its manifest's summary is damaged \(.*: Field required\); remove"):
        EvaluationSummary.read({"a": [1]}, "evaluation/x")
