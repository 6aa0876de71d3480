from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifact import MANIFEST
from storage.catalogue import record_run
from storage.errors import ArtifactMissing
from storage.fingerprint import fingerprint
from storage.lineage import ancestors, differences, flat, resolve
from storage.store import Store
from tests.support.storage.chains import chain, commit_artifact

LEAVES = st.none() | st.booleans() | st.integers() | st.text("ab", max_size=2)
TREES = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_size=4,
)


@given(TREES)
def test_a_tree_does_not_differ_from_itself(tree: dict[str, Any]) -> None:
    assert differences(tree, tree) == []


@given(TREES, TREES)
def test_applying_all_differences_gives_the_other_tree(old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = dict(flat(old))
    for field, before, after in differences(old, new):
        assert changed.get(field) == before
        changed[field] = after
    assert {key: value for key, value in changed.items() if value is not None} == {
        key: value for key, value in flat(new) if value is not None
    }


def test_ancestors_are_listed_once_each_children_first(store: Store) -> None:
    made = chain(store)
    found = ancestors(store, "training", made[2].fingerprint)
    assert list(found) == [made[2].name, made[1].name, made[0].name]
    assert found[made[1].name]["inputs"] == {"questions": made[0].fingerprint}


def test_a_missing_ancestor_is_named(store: Store) -> None:
    child = commit_artifact(store, "training", {"sampling": "0" * 16})
    with pytest.raises(ArtifactMissing, match=f"sampling/{'0' * 16}: no sampling artifact"):
        ancestors(store, "training", child.fingerprint)


def test_a_reference_is_a_name_a_prefix_a_run_or_a_pointer(store: Store) -> None:
    made = chain(store)
    stages = {artifact.stage: artifact.fingerprint for artifact in made}
    record_run(store.backend, "first", stages, {}, "done")
    expected = ("training", made[2].fingerprint)
    for reference in (made[2].name, made[2].name[:14], "first:training", "first", "latest", "latest:training"):
        assert resolve(store, reference, "training") == expected
    assert resolve(store, "first:questions", "training") == ("questions", made[0].fingerprint)


def test_an_unknown_or_ambiguous_reference_is_refused(store: Store) -> None:
    for number in range(17):  # of 17 hex names, two share their first digit
        commit_artifact(store, "questions", number=number)
    record_run(store.backend, "half", {"questions": "0" * 16}, {}, "running")
    starts = [name[0] for name in store.fingerprints("questions")]
    twice = next(start for start in starts if starts.count(start) > 1)
    for reference, problem in (
        (f"questions/{twice}", "artifacts match; give more digits"),
        ("questions/", "no such artifact"),
        ("questions/zz", "no such artifact"),
        ("half", "run half has no stage 'training'; it has questions"),
        ("half:report", "no stage 'report'"),
        ("other", "no such run or pointer"),
    ):
        with pytest.raises(ArtifactMissing, match=problem):
            resolve(store, reference, "training")


def test_a_chain_of_any_length_has_ancestors(store: Store) -> None:
    inputs: dict[str, str] = {}
    for number in range(1200):
        identity = {"number": number}
        document = {
            "schema_version": 2, "stage": f"s{number}", "fingerprint": fingerprint(identity), "identity": identity, "inputs": inputs,
            "config": {}, "summary": {}, "timing": {"started": "", "seconds": 0.0, "processes": 1}, "peak_mib": 0,
            "provenance": {}, "files": [],
        }  # fmt: skip
        folder = store.folder(f"s{number}", fingerprint(identity))
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(orjson.dumps(document))
        inputs = {f"s{number}": fingerprint(identity)}
    assert [name.partition("/")[0] for name in ancestors(store, *next(iter(inputs.items())))] == [
        f"s{number}" for number in reversed(range(1200))
    ]
