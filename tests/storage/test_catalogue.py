from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.catalogue import (
    EARLIER,
    HISTORY,
    add_run,
    forget_run,
    point,
    pointers,
    read_pointer,
    read_run,
    read_runs,
    record_run,
    run_names,
    stages_of,
)
from storage.errors import ArtifactError, ArtifactMissing, BadName
from storage.store import Store


def _student(number: int) -> dict[str, str]:
    return {"training": f"{number:016x}"}


def test_runs_are_listed_newest_first_up_to_the_limit(store: Store) -> None:
    names = ["c", "a", "d", "b"]
    for name in names:
        record_run(store.backend, name, _student(1), {"name": name}, "done")
    runs = read_runs(store.backend).runs
    assert [run["name"] for run in runs] == names[::-1]
    assert all(run["stages"] == _student(1) and run["config"] == {"name": run["name"]} for run in runs)
    assert [run["name"] for run in read_runs(store.backend, 2).runs] == ["b", "d"]
    assert sorted(run_names(store.backend)) == sorted(names)


def test_a_run_recorded_again_is_replaced_and_latest_points_to_it(store: Store) -> None:
    record_run(store.backend, "first", {}, {}, "running")
    record_run(store.backend, "second", {}, {}, "running")
    record_run(store.backend, "first", _student(2), {}, "done")
    assert {run["name"]: run["status"] for run in read_runs(store.backend).runs} == {"first": "done", "second": "running"}
    latest = read_pointer(store.backend, "latest")
    assert latest is not None
    assert (latest["run"], latest["stages"], latest["history"]) == ("first", _student(2), [])


def test_a_run_keeps_its_last_distinct_fingerprints(store: Store) -> None:
    for number in range(EARLIER + 3):
        for status in ("running", "done"):
            record_run(store.backend, "run", _student(number), {}, status)
    run = read_run(store.backend, "run")
    assert run is not None
    assert run["earlier"] == [_student(number) for number in range(EARLIER + 1, 1, -1)]


def test_a_pointer_keeps_its_history_and_does_not_follow_the_run(store: Store) -> None:
    for number in range(HISTORY + 2):
        record_run(store.backend, "run", _student(number), {}, "done")
        for _ in range(2):
            point(store.backend, "promoted", "run", _student(number))
    record_run(store.backend, "run", _student(99), {}, "running")
    promoted = read_pointer(store.backend, "promoted")
    assert promoted is not None
    assert promoted["stages"] == _student(HISTORY + 1)
    assert [earlier["stages"] for earlier in promoted["history"]] == [_student(n) for n in range(HISTORY, 0, -1)]
    assert set(pointers(store.backend).pointers) == {"latest", "promoted"}
    assert stages_of(store.backend, "promoted") == _student(HISTORY + 1)
    assert stages_of(store.backend, "run") == _student(99)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"stages": 3}', b'{"stages": ["x"]}'])
def test_a_damaged_run_is_one_line_and_hides_no_other(store: Store, content: bytes) -> None:
    record_run(store.backend, "good", _student(1), {}, "done")
    store.backend.write("runs/bad.json", content)
    with pytest.raises(ArtifactError, match=r"runs/bad\.json: damaged .*; `mind forget bad` removes it"):
        read_run(store.backend, "bad")
    runs, damaged = read_runs(store.backend)
    assert [run["name"] for run in runs] == ["good"]
    assert [line.partition(":")[0] for line in damaged] == ["runs/bad.json"]
    forget_run(store.backend, "bad")
    assert read_runs(store.backend).damaged == []


def test_a_run_under_another_name_is_damaged(store: Store) -> None:
    record_run(store.backend, "mine", _student(1), {}, "done")
    content = store.backend.read("runs/mine.json")
    assert content is not None
    store.backend.write("runs/copy.json", content)
    assert read_runs(store.backend).damaged == [
        "runs/copy.json: belongs to run 'mine'; `mind forget copy` removes it; run its configuration again"
    ]


def test_a_damaged_latest_does_not_stop_a_run_but_a_damaged_promoted_is_kept(store: Store) -> None:
    for name in ("latest", "promoted"):
        store.backend.write(f"pointers/{name}.json", b"{")
    record_run(store.backend, "run", _student(1), {}, "done")
    assert stages_of(store.backend, "latest") == _student(1)
    with pytest.raises(ArtifactError, match=r"pointers/promoted\.json: damaged"):
        point(store.backend, "promoted", "run", _student(1))
    assert store.backend.read("pointers/promoted.json") == b"{"


@pytest.mark.parametrize(
    "name", ["../other/victim", "../pointers/promoted", "/tmp/x", "a/b", "", "..", ".x", "-x", "x" * 101, "a\0", "latest"]
)
def test_a_name_that_leaves_the_catalogue_is_refused(store: Store, name: str) -> None:
    outside = store.root.parent / "other" / "victim.json"
    outside.parent.mkdir(parents=True)
    outside.write_text("{}")
    for refused in (lambda: record_run(store.backend, name, {}, {}, "done"), lambda: forget_run(store.backend, name)):
        with pytest.raises(BadName, match="choose another"):
            refused()
    assert outside.exists()
    assert not store.root.exists()


def test_a_name_is_taken_by_one_process_and_free_for_the_same_artifacts(store: Store) -> None:
    def add(number: int) -> bool | str:
        try:
            return add_run(store.backend, "run", _student(number), "imported")
        except BadName as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(add, range(8)))
    assert found.count(True) == 1
    assert all(one is True or "run: a run of this name exists; choose another with --name" in str(one) for one in found)
    assert add(found.index(True)) is False
    assert read_runs(store.backend).runs[0]["stages"] == _student(found.index(True))


def test_a_root_without_runs_has_none(store: Store) -> None:
    assert read_runs(store.backend) == ([], [])
    assert pointers(store.backend) == ({}, [])
    assert read_run(store.backend, "x") is None
    with pytest.raises(ArtifactMissing, match="no such run or pointer; `mind status` lists them"):
        stages_of(store.backend, "x")
