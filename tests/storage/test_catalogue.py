from __future__ import annotations

from pathlib import Path

from storage.catalogue import read_runs, record_run


def test_runs_are_read_back_newest_first(tmp_path: Path) -> None:
    names = ["c", "a", "d", "b"]
    for name in names:
        record_run(tmp_path, name, {"training": "ab"}, {"name": name}, "done")
    runs = read_runs(tmp_path)
    assert [run["name"] for run in runs] == names[::-1]
    assert all(run["stages"] == {"training": "ab"} and run["config"] == {"name": run["name"]} for run in runs)


def test_a_run_recorded_again_is_replaced_and_latest_points_to_it(tmp_path: Path) -> None:
    record_run(tmp_path, "first", {}, {}, "running")
    record_run(tmp_path, "second", {}, {}, "running")
    record_run(tmp_path, "first", {"questions": "cd"}, {}, "done")
    assert {run["name"]: run["status"] for run in read_runs(tmp_path)} == {"first": "done", "second": "running"}
    assert (tmp_path / "pointers" / "latest").read_text() == "first"


def test_a_root_without_runs_has_none(tmp_path: Path) -> None:
    assert read_runs(tmp_path) == []
