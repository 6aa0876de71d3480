from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from storage.backend import Backend, LocalBackend, ObjectStore
from storage.errors import ArtifactError, BadRoot, RootNotWritable, RootUnavailable
from storage.store import open_store
from tests.support.storage.s3 import S3, Fault

KEYS = st.sampled_from(["runs/a", "runs/b", "runs/deep/c", "top", "runs.old/a"])
FOLDERS = st.sampled_from(["runs", "runs/deep", "runs.old", "nothing"])
CONTENTS = st.binary(max_size=8)


class Model(RuleBasedStateMachine):
    """Any backend behaves like a dictionary of keys."""

    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        for folder in ("runs", "runs.old"):
            self.backend.remove_all(folder)
        self.backend.remove("top")
        self.content: dict[str, bytes] = {}

    @rule(key=KEYS, content=CONTENTS)
    def write(self, key: str, content: bytes) -> None:
        self.backend.write(key, content)
        self.content[key] = content

    @rule(key=KEYS, content=CONTENTS)
    def create(self, key: str, content: bytes) -> None:
        assert self.backend.create(key, content) is (self.content.get(key, content) == content)
        self.content.setdefault(key, content)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self.backend.remove(key)
        self.content.pop(key, None)

    @rule(folder=FOLDERS)
    def remove_all(self, folder: str) -> None:
        self.backend.remove_all(folder)
        self.content = {key: content for key, content in self.content.items() if not key.startswith(f"{folder}/")}

    @rule(key=KEYS, folder=FOLDERS)
    def look(self, key: str, folder: str) -> None:
        assert self.backend.read(key) == self.content.get(key)
        assert self.backend.has(key) is (key in self.content)
        below = [name.removeprefix(f"{folder}/") for name in self.content if name.startswith(f"{folder}/")]
        # A local backend may keep empty folders; nothing depends on them.
        assert set(self.backend.names(folder)) - {"deep"} == {name for name in below if "/" not in name}
        files = {name: entry.bytes for name, entry in self.backend.entries(folder).items()}
        assert files == {name: len(self.content[f"{folder}/{name}"]) for name in below if "/" not in name}


def _run(backend: Backend, depth: settings) -> None:
    run_state_machine_as_test(type("Modelled", (Model,), {"backend": backend}), settings=depth)  # type: ignore[arg-type]


def test_a_local_backend_behaves_like_a_dictionary(tmp_path: Path) -> None:
    _run(LocalBackend(tmp_path), settings(max_examples=20, stateful_step_count=25))


def test_an_object_store_behaves_like_a_dictionary(s3: S3) -> None:
    _run(ObjectStore(s3.root()), settings(max_examples=3, stateful_step_count=15))


def test_runs_are_listed_while_another_process_rewrites_one(tmp_path: Path) -> None:
    """Garbage collection depends on this: an empty listing would make it delete everything."""
    backend, stop = LocalBackend(tmp_path), threading.Event()
    for name in ("a.json", "b.json"):
        backend.write(f"runs/{name}", b"{}")

    def rewrite() -> None:
        while not stop.is_set():
            backend.write("runs/a.json", b"{}")

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(1000):
            assert set(backend.entries("runs")) == {"a.json", "b.json"}
            assert backend.names("runs") == ["a.json", "b.json"]
    finally:
        stop.set()
        thread.join()


def test_only_one_of_many_threads_creates_a_key(tmp_path: Path) -> None:
    backend, begin, won = LocalBackend(tmp_path), threading.Barrier(8), list[int]()

    def create(number: int) -> None:
        begin.wait()
        if backend.create("lease/1", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert backend.read("lease/1") == b"%d" % won[0]
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["1"]


def test_a_root_without_write_permission_is_refused(tmp_path: Path) -> None:
    backend = LocalBackend(Path("/proc/artifacts"))
    for act in (lambda: backend.write("a", b""), lambda: backend.create("a", b"")):
        with pytest.raises(RootNotWritable, match="/proc/artifacts: cannot be written"):
            act()
    with pytest.raises(RootNotWritable, match="cannot be written"):
        LocalBackend(Path("/proc")).remove_all("self/fdinfo")


@pytest.mark.parametrize("root", ["s3://key:secret@bucket/x", "s3://key@bucket", "simplecache::s3://a:b@bucket/x"])
def test_a_secret_in_a_root_is_refused_and_not_repeated(root: str) -> None:
    with pytest.raises(BadRoot, match="put it in the environment") as caught:
        open_store(root)
    assert "secret" not in str(caught.value)
    assert "key" not in str(caught.value)


def test_a_local_root_is_a_plain_path() -> None:
    with pytest.raises(BadRoot, match="plain path"):
        open_store("file:///tmp/x")
    assert open_store("some/where@home").remote is None


def test_a_store_without_its_library_is_refused_in_one_line() -> None:
    with pytest.raises(BadRoot, match="install the extra for this store"):
        ObjectStore("gs://bucket/x").names("")


def test_a_missing_bucket_is_refused_in_one_line(s3: S3, tmp_path: Path) -> None:
    backend = ObjectStore("s3://no-such-bucket/x")
    (tmp_path / "file").write_text("x")
    for act in (
        lambda: backend.write("a", b""),
        lambda: backend.create("a", b""),
        lambda: backend.upload(tmp_path / "file", "a"),
        backend.check_conditional_put,
    ):
        with pytest.raises(BadRoot, match=r"no-such-bucket.*create the bucket, or correct root"):
            act()
    assert s3.port


def test_a_store_that_denies_access_is_reported_in_one_line(s3: S3) -> None:
    with s3.proxy.failing(Fault(403, "PUT")), pytest.raises(RootUnavailable, match="then run again to resume"):
        ObjectStore(s3.root()).write("a", b"")


@settings(max_examples=8)
@given(st.binary(max_size=2), st.binary(max_size=2))
def test_a_file_survives_a_round_trip_and_upload_new_never_overwrites(
    s3: S3, tmp_path: Path, content: bytes, other: bytes
) -> None:
    backend = ObjectStore(s3.root())
    file, back = tmp_path / "file", tmp_path / "a" / "back"
    file.write_bytes(content)
    assert backend.upload_new(file, "f")
    file.write_bytes(other)
    assert backend.upload_new(file, "f") is (content == other)
    backend.download("f", back)
    assert back.read_bytes() == content
    assert [path.name for path in back.parent.iterdir()] == ["back"]
    backend.upload(file, "f")
    assert backend.read("f") == other


def test_a_path_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a.json").mkdir(parents=True)
    backend = LocalBackend(tmp_path)
    with pytest.raises(ArtifactError, match=r"a\.json: cannot be read \(Is a directory\); .*remove or repair"):
        backend.read("runs/a.json")
    for ask in (backend.has, backend.read, backend.names, backend.entries):
        with pytest.raises(ArtifactError, match=r"cannot be read \(File name too long\)") as raised:
            ask("x" * 300)
        assert len(str(raised.value)) < 400
