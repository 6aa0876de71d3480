from __future__ import annotations

from pathlib import Path

from stages.core.progress import Progress, read_progress


def test_the_latest_progress_is_read_back(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "training")
    assert read_progress(tmp_path / "p") is None
    progress.start("steps", 10, "steps", done=4)
    progress.advance(6, "loss 1")
    found = read_progress(tmp_path / "p")
    assert found is not None
    assert (found["done"], found["total"], found["note"]) == (10, 10, "loss 1")


def test_the_rate_counts_only_work_of_this_process(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "training")
    progress.start("steps", 1000, "steps", done=900)
    assert progress.rate() == 0


def test_a_truncated_progress_file_gives_no_progress(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"stage": "tr')
    assert read_progress(tmp_path / "p") is None
