from __future__ import annotations

import pytest

from storage.catalogue import (
    EARLIER,
    HISTORY,
    point,
    pointers,
    read_pointer,
    read_run,
    read_runs,
    record_run,
    run_names,
    stages_of,
)
from storage.errors import ArtifactError, ArtifactMissing
from storage.store import Store


def test_runs_are_listed_newest_first_up_to_the_limit(store: Store) -> None:
    names = ["c", "a", "d", "b"]
    for name in names:
        record_run(store.backend, name, {"training": "ab"}, {"name": name}, "done")
    runs = read_runs(store.backend)
    assert [run["name"] for run in runs] == names[::-1]
    assert all(run["stages"] == {"training": "ab"} and run["config"] == {"name": run["name"]} for run in runs)
    assert [run["name"] for run in read_runs(store.backend, 2)] == ["b", "d"]
    assert sorted(run_names(store.backend)) == sorted(names)


def test_a_run_recorded_again_is_replaced_and_latest_points_to_it(store: Store) -> None:
    record_run(store.backend, "first", {}, {}, "running")
    record_run(store.backend, "second", {}, {}, "running")
    record_run(store.backend, "first", {"questions": "cd"}, {}, "done")
    assert {run["name"]: run["status"] for run in read_runs(store.backend)} == {"first": "done", "second": "running"}
    latest = read_pointer(store.backend, "latest")
    assert latest is not None
    assert (latest["run"], latest["stages"], latest["history"]) == ("first", {"questions": "cd"}, [])


def test_a_run_keeps_its_last_distinct_fingerprints(store: Store) -> None:
    for number in range(EARLIER + 3):
        for status in ("running", "done"):
            record_run(store.backend, "run", {"questions": str(number)}, {}, status)
    run = read_run(store.backend, "run")
    assert run is not None
    assert [stages["questions"] for stages in run["earlier"]] == [str(number) for number in range(EARLIER + 1, 1, -1)]


def test_a_pointer_keeps_its_history_and_does_not_follow_the_run(store: Store) -> None:
    for number in range(HISTORY + 2):
        record_run(store.backend, "run", {"training": str(number)}, {}, "done")
        for _ in range(2):
            point(store.backend, "promoted", "run", {"training": str(number)})
    record_run(store.backend, "run", {"training": "other"}, {}, "running")
    promoted = read_pointer(store.backend, "promoted")
    assert promoted is not None
    assert promoted["stages"] == {"training": str(HISTORY + 1)}
    assert [earlier["stages"]["training"] for earlier in promoted["history"]] == [str(n) for n in range(HISTORY, 0, -1)]
    assert set(pointers(store.backend)) == {"latest", "promoted"}
    assert stages_of(store.backend, "promoted") == {"training": str(HISTORY + 1)}
    assert stages_of(store.backend, "run") == {"training": "other"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"stages": 3}', b'{"stages": ["x"]}'])
def test_a_damaged_run_is_an_error_with_a_remedy(store: Store, content: bytes) -> None:
    store.backend.write("runs/bad.json", content)
    with pytest.raises(ArtifactError, match=r"runs/bad\.json: damaged; remove it, and run"):
        read_runs(store.backend)


def test_a_root_without_runs_has_none(store: Store) -> None:
    assert read_runs(store.backend) == []
    assert pointers(store.backend) == {}
    assert read_run(store.backend, "x") is None
    with pytest.raises(ArtifactMissing, match="no such run or pointer; `mind status` lists them"):
        stages_of(store.backend, "x")
