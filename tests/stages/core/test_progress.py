from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.core.progress import Progress, counted, read_progress


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


def test_what_is_finished_in_a_shard_is_shown_before_its_commit(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "evaluation")
    progress.start("answers", 100, "items", done=50)
    for _ in range(20):
        progress.answered(tokens=30, units=0.5)
    progress._write()
    found = read_progress(tmp_path / "p")
    assert found is not None
    assert (found["done"], found["inside"], counted(found)) == (50, 10.0, "60/100 items")
    progress.advance(8)
    progress._write()
    found = read_progress(tmp_path / "p")
    assert found is not None
    assert (found["done"], found["inside"], counted(found)) == (58, 2.0, "60/100 items")


def test_the_time_left_counts_what_is_finished_in_a_shard(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "evaluation")
    progress.start("answers", 1000, "items", done=900)
    time.sleep(0.2)
    progress.within(50)
    found = progress._document("")
    assert found["seconds_left"] == pytest.approx(50 / found["rate"])
    assert 100 < found["rate"] < 300


def test_never_more_is_finished_than_there_is(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "sampling")
    progress.start("rationales", 10, "questions")
    for _ in range(30):  # further tries
        progress.answered(tokens=1)
    progress.advance(4)
    assert counted(progress._document("")) == "10/10 questions"


def test_threads_may_report_at_once(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "p", "sampling")
    progress.start("rationales", 10**6, "questions")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: progress.answered(tokens=2), range(4000)))
    assert progress.inside == 4000


def test_a_truncated_progress_file_gives_no_progress(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"stage": "tr')
    assert read_progress(tmp_path / "p") is None
