from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import lease
from storage.archive import contents, export, import_
from storage.artifact import MANIFEST
from storage.backend import Backend
from storage.catalogue import add_run, point, record_run
from storage.errors import ArtifactBusy
from storage.garbage import collect, garbage, reachable
from storage.store import Store, open_store
from tests.support.storage.chains import chain, commit_artifact, files
from tests.support.storage.processes import DIGEST, numbers


def _collect(store: Store) -> set[str]:
    found, _ = garbage(store)
    collect(store, found)
    return {item.key for item in found}


def _artifacts(store: Store) -> set[str]:
    return {str(path.parent.relative_to(store.root)) for path in store.root.glob(f"*/*/{MANIFEST}")}


_REST = {
    "config": {},
    "summary": {},
    "timing": {"started": "", "seconds": 0.0, "processes": 1},
    "peak_mib": 0,
    "provenance": {},
    "files": [],
}


def _bare(store: Store, name: str, inputs: dict[str, str]) -> None:
    stage, digest = name.split("/")
    document = {"schema_version": 2, "stage": stage, "fingerprint": digest, "identity": {}, "inputs": inputs}
    store.backend.write(f"{name}/{MANIFEST}", orjson.dumps({**document, **_REST}))
    store.backend.write(f"{name}/rows.parquet", b"rows")


@settings(max_examples=30)
@given(st.data())
def test_everything_reachable_is_kept_and_all_else_is_removed(tmp_path: Path, data: st.DataObject) -> None:
    """Any graph: each artifact has at most one input per earlier stage, and some inputs are already gone."""
    store = open_store(str(tmp_path / str(len(list(tmp_path.iterdir())))))
    stages = ["questions", "sampling", "synthesis"]
    names = [f"{stage}/{number:016x}" for stage in stages for number in range(data.draw(st.integers(0, 3)))]
    made: dict[str, dict[str, str]] = {}
    for name in names:
        earlier = [other for other in names if stages.index(other.split("/")[0]) < stages.index(name.split("/")[0])]
        chosen = data.draw(st.lists(st.sampled_from(earlier), max_size=2) if earlier else st.just([]))
        made[name] = dict(other.split("/") for other in chosen)
        _bare(store, name, made[name])

    def some() -> dict[str, str]:
        return dict(
            name.split("/") for name in data.draw(st.lists(st.sampled_from(names), max_size=2) if names else st.just([]))
        )

    roots = []
    for number in range(data.draw(st.integers(0, 2))):
        roots.append(some())
        record_run(store.backend, f"run{number}", roots[-1], {}, data.draw(st.sampled_from(["running", "done", "failed"])))
    for number in range(data.draw(st.integers(0, 3))):
        roots.append(some())
        point(store.backend, "promoted", f"run{number}", roots[-1])

    expected, waiting = set[str](), [f"{stage}/{digest}" for root in roots for stage, digest in root.items()]
    while waiting:
        name = waiting.pop()
        expected.add(name)
        waiting += [f"{stage}/{digest}" for stage, digest in made[name].items()]
    held = data.draw(st.sampled_from([None, *names]))
    if held is None:
        assert _collect(store) == set(names) - expected
    else:
        with lease.hold(store.backend, f"{held}.lease", held):
            assert _collect(store) == set(names) - expected - {held}
            assert store.backend.names(f"{held}.lease")
        expected.add(held)
    assert _artifacts(store) == expected
    assert reachable(store).names >= expected - {held}
    assert all(store.backend.read(f"{name}/rows.parquet") == b"rows" for name in expected)


def test_listing_garbage_removes_nothing_and_gives_its_size(store: Store) -> None:
    chain(store, rate=1)
    before = files(store.root)
    found, _ = garbage(store)
    assert files(store.root) == before
    listed = sum(entry["bytes"] for name in _artifacts(store) for entry in store.manifest(*name.split("/"))["files"])
    assert sum(item.bytes for item in found) == listed
    assert collect(store, found) == listed
    assert files(store.root) == {}


def test_promoted_students_and_their_ancestors_are_kept(store: Store) -> None:
    made = [chain(store, number=number) for number in range(3)]
    for number in range(2):
        stages = {artifact.stage: artifact.fingerprint for artifact in made[number]}
        record_run(store.backend, "run", stages, {}, "done")
        point(store.backend, "promoted", "run", stages)
    record_run(store.backend, "run", {}, {}, "running")
    assert _collect(store) == {artifact.name for artifact in made[2]}
    assert _artifacts(store) == {artifact.name for artifacts in made[:2] for artifact in artifacts}


def test_an_unfinished_artifact_is_kept_while_a_run_refers_to_it(store: Store) -> None:
    with store.draft("sampling", DIGEST) as draft:
        draft.write_shard("rows", numbers(1))
        (draft.scratch / "state").write_text("1")
    record_run(store.backend, "run", {"sampling": DIGEST}, {}, "failed")
    assert _collect(store) == set()
    assert (store.root / "sampling" / f"{DIGEST}.partial" / "rows-00000.parquet").exists()
    record_run(store.backend, "run", {}, {}, "done")
    assert _collect(store) == {f"sampling/{DIGEST}.{kind}" for kind in ("partial", "scratch", "lease", "digests")}
    assert list((store.root / "sampling").iterdir()) == []


@pytest.mark.parametrize(
    "left", ["partial/x", "scratch/x", "lease/000001", "incoming/x", "digests", "progress", "synced", "lock"]
)
def test_leftovers_of_a_kill_beside_a_finished_artifact_are_removed(store: Store, left: str) -> None:
    artifact = commit_artifact(store, "sampling")
    record_run(store.backend, "run", {"sampling": artifact.fingerprint}, {}, "done")
    store.backend.write(f"{artifact.name}.{left}", b"{}")
    assert _collect(store) == {f"{artifact.name}.{left.partition('/')[0]}"}
    assert [path.name for path in artifact.folder.parent.iterdir()] == [artifact.fingerprint]
    assert store.open("sampling", artifact.fingerprint).table("rows").num_rows == 4


def test_only_artifacts_are_ever_removed(store: Store) -> None:
    """A user may give a home folder or a checkout as root."""
    mine = ["notes/thesis.txt", "src/pkg/module.py", ".git/objects/ab", "top", "sampling/README", "sampling/0123456789ABCDEF/x"]
    for name in mine:
        store.backend.write(name, b"mine")
    artifact = commit_artifact(store, "sampling")
    assert _collect(store) == {artifact.name}
    assert set(files(store.root)) == set(mine)


def test_a_lease_of_another_host_protects_a_week_without_heartbeat(store: Store) -> None:
    with store.draft("sampling", DIGEST) as draft:
        draft.write_shard("rows", numbers(1))
    key = f"sampling/{DIGEST}.lease/000001"
    content = store.backend.read(key)
    assert content is not None
    store.backend.write(key, orjson.dumps({**orjson.loads(content), "host": "elsewhere", "released": False}))
    began = time.monotonic()
    assert _collect(store) == set()
    assert time.monotonic() - began < 5, "nothing is waited for"
    long_ago = time.time() - lease.FORGOTTEN_SECONDS - 60
    os.utime(store.root / key, (long_ago, long_ago))
    assert f"sampling/{DIGEST}.partial" in {item.key for item in garbage(store)[0]}


def test_artifacts_in_use_since_the_listing_are_kept(store: Store) -> None:
    artifact, other = commit_artifact(store, "sampling", number=1), commit_artifact(store, "sampling", number=2)
    with store.draft("questions", DIGEST) as draft:
        draft.write_shard("rows", numbers(1))
    found, _ = garbage(store)
    record_run(store.backend, "run", {"sampling": artifact.fingerprint}, {}, "running")
    with lease.hold(store.backend, f"questions/{DIGEST}.lease", "it"):
        collect(store, found)
    assert _artifacts(store) == {artifact.name}
    assert not other.folder.exists()
    assert (store.root / "questions" / f"{DIGEST}.partial" / "rows-00000.parquet").exists()


@pytest.mark.parametrize("recorded", ["before the lease", "under the lease"])
def test_an_import_while_garbage_is_removed_ends_with_all_its_artifacts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
) -> None:
    """The import finds an artifact that is being removed, at the two moments at which that matters."""
    artifact = commit_artifact(store, "sampling")
    tar, found = tmp_path / "sampling.tar", garbage(store)[0]
    export(store, artifact.stage, artifact.fingerprint, tar)
    hold, refused = lease.hold, list[str]()

    def import_now() -> None:
        add_run(store.backend, "imported", contents(tar), "imported")
        try:
            import_(store, tar)
        except ArtifactBusy as error:
            refused.append(str(error))

    @contextmanager
    def meanwhile(backend: Backend, prefix: str, what: str, needs: tuple[str, ...] = ()) -> Iterator[lease.Lease]:
        monkeypatch.setattr(lease, "hold", hold)
        if recorded == "before the lease":
            import_now()
        with hold(backend, prefix, what, needs) as held:
            if recorded == "under the lease":
                import_now()
            yield held

    monkeypatch.setattr(lease, "hold", meanwhile)
    collect(store, found)
    assert _artifacts(store) == {artifact.name}
    assert len(refused) == (recorded == "under the lease"), "it cannot know whether the artifact stays"
    assert store.backend.names("sampling") == [artifact.fingerprint]
    if refused:
        assert import_(store, tar) == [(artifact.name, False)]


@pytest.mark.parametrize("damaged", ["runs/run.json", "pointers/promoted.json", "manifest"])
def test_while_a_document_is_damaged_only_what_is_left_over_is_removed(store: Store, damaged: str) -> None:
    """What the document reached is unknown."""
    unreached, reached = commit_artifact(store, "sampling"), commit_artifact(store, "questions")
    stages = {"questions": reached.fingerprint}
    record_run(store.backend, "run", stages, {}, "done")
    point(store.backend, "promoted", "run", stages)
    store.backend.write(f"{reached.name}.digests", b"left over")
    key = f"{reached.name}/{MANIFEST}" if damaged == "manifest" else damaged
    content = store.backend.read(key)
    assert content is not None
    store.backend.write(key, content[:-9])
    found, lines = garbage(store)
    assert [item.key for item in found] == [f"{reached.name}.digests"]
    assert [key in line for line in lines] == [True]
    collect(store, found)
    assert _artifacts(store) == {unreached.name, reached.name}
    store.backend.write(key, content)
    assert _collect(store) == {unreached.name}


def test_garbage_names_the_run_that_made_it(store: Store) -> None:
    artifact = commit_artifact(store, "sampling")
    artifact.folder.with_suffix(".config").write_text('{"name": "nightly"}')
    commit_artifact(store, "questions").folder.with_suffix(".config").write_text("[")
    assert {(item.key.partition(".")[0], item.run) for item in garbage(store)[0]} == {
        (artifact.name, "nightly"),
        (f"questions/{store.fingerprints('questions')[0]}", ""),
    }


def test_inputs_of_a_live_process_are_kept(store: Store) -> None:
    questions, sampling, _ = chain(store)
    with store.draft("synthesis", DIGEST, {"questions": questions.fingerprint, "sampling": sampling.fingerprint}):
        _collect(store)
        assert {questions.name, sampling.name} <= _artifacts(store)
    _collect(store)
    assert _artifacts(store) == set()


def test_logs_of_a_finished_artifact_are_kept(store: Store) -> None:
    questions = chain(store)[0]
    record_run(store.backend, "run", {"questions": questions.fingerprint}, {}, "done")
    for kind in ("log", "config"):
        questions.folder.with_suffix(f".{kind}").write_text("said")
    _collect(store)
    assert questions.folder.with_suffix(".log").exists()
    assert questions.folder.with_suffix(".config").exists()
