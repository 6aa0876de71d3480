"""The student is asked before the teacher is paid for."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.models import LocalModel
from pipeline.student.self_check import Form
from stages.shared.student_check import check_student


def test_a_student_folder_is_asked_on_short_rows(tiny_model: Path) -> None:
    assert check_student(LocalModel(path=tiny_model, chat=False)) == Form("rows", own_head=False)
