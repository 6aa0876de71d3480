from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.archive import contents, export, import_
from storage.artifact import MANIFEST
from storage.documents import DEEPEST
from storage.errors import ArtifactError, BadName
from storage.store import Store, open_store
from storage.verify import verify
from tests.support.storage.chains import chain, files
from tests.support.storage.processes import numbers

Members = dict[str, bytes]


@pytest.fixture
def tar(store: Store, tmp_path: Path) -> Path:
    """A tar file with a student and all its ancestors."""
    export(store, "training", chain(store)[2].fingerprint, tmp_path / "student.tar")
    return tmp_path / "student.tar"


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "target"))


def _members(tar: Path) -> Members:
    with tarfile.open(tar) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


def _write(tar: Path, members: Members, *more: tarfile.TarInfo) -> None:
    with tarfile.open(tar, "w") as opened:
        for member in more:
            opened.addfile(member)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def test_an_export_is_imported_byte_for_byte_ancestors_first(store: Store, tar: Path, target: Store) -> None:
    names = import_(target, tar)
    assert [name.split("/")[0] for name, _ in names] == ["questions", "sampling", "training"]
    assert all(new for _, new in names)
    assert files(target.root) == files(store.root)
    for name, _ in names:
        assert verify(target, *name.split("/")) == []
    assert import_(target, tar) == [(name, False) for name, _ in names]


def test_a_tar_file_has_no_owner(tar: Path) -> None:
    with tarfile.open(tar) as opened:
        assert {(member.uid, member.gid, member.uname, member.gname) for member in opened} == {(0, 0, "", "")}


def test_a_link_in_an_artifact_is_exported_as_its_content(store: Store, tmp_path: Path, target: Store) -> None:
    made = chain(store)[2]
    weights = made.path("student/weights")
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    export(store, "training", made.fingerprint, tmp_path / "links.tar")
    import_(target, tmp_path / "links.tar")
    assert target.open("training", made.fingerprint).path("student/weights").read_bytes() == weights.read_bytes()


def test_an_export_that_fails_leaves_no_file(store: Store, tmp_path: Path) -> None:
    made = chain(store)
    made[0].path("rows-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        export(store, "training", made[2].fingerprint, tmp_path / "t.tar")
    assert not list(tmp_path.glob("*tar*"))


def _link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


INSIDE = f"training/{'0' * 16}"


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../evil"),
        tarfile.TarInfo("/tmp/evil"),
        tarfile.TarInfo(f"{INSIDE}/../../evil"),
        tarfile.TarInfo(f"{INSIDE}//evil"),
        tarfile.TarInfo(f"{INSIDE}/./evil"),
        tarfile.TarInfo(f"{INSIDE}"),
        tarfile.TarInfo(f"../{INSIDE}/evil"),
        tarfile.TarInfo("Training/0123/evil"),
        tarfile.TarInfo(f"runs/{'0' * 16}/evil"),
        tarfile.TarInfo("runs/evil.json"),
        _link(f"{INSIDE}/evil", tarfile.SYMTYPE, "/etc/passwd"),
        _link(f"{INSIDE}/evil", tarfile.LNKTYPE, f"{INSIDE}/{MANIFEST}"),
        _link(f"{INSIDE}/evil", tarfile.FIFOTYPE, ""),
        _link(f"{INSIDE}/evil", tarfile.CHRTYPE, ""),
        _link(f"{INSIDE}/evil", tarfile.DIRTYPE, ""),
        _link(f"{INSIDE}/evil", tarfile.GNUTYPE_SPARSE, ""),
        tarfile.TarInfo(f"{INSIDE}/{'d/' * 1800}evil"),
        tarfile.TarInfo(f"{INSIDE}/{'d/' * DEEPEST}evil"),
        tarfile.TarInfo(f"{INSIDE}/{'n' * 256}"),
        tarfile.TarInfo(f"{INSIDE}/{'n' * 2**21}"),
    ],
    ids=lambda member: f"{member.name[:60]} {member.type.decode()}",
)
def test_a_member_that_is_not_a_plain_artifact_file_is_refused(
    tar: Path, target: Store, tmp_path: Path, member: tarfile.TarInfo
) -> None:
    _write(tar, _members(tar), member)
    before = files(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"(is not an artifact's file|not a complete tar file).*; export the artifact again"
    ):
        import_(target, tar)
    assert files(tmp_path) == before


def test_members_are_checked_before_the_first_artifact_is_written(tar: Path, target: Store) -> None:
    """The hostile member is the last one."""
    members = _members(tar)
    with tarfile.open(tar, "w") as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
        opened.addfile(tarfile.TarInfo(f"{INSIDE}/{'d/' * DEEPEST}evil"))
    with pytest.raises(ArtifactError, match="is not an artifact's file"):
        import_(target, tar)
    assert not target.root.exists()


@pytest.mark.parametrize("blocks", [2, 20, 2000])
def test_a_tar_file_of_zeros_contains_no_artifact(tmp_path: Path, target: Store, blocks: int) -> None:
    tar = tmp_path / "zeros.tar"
    tar.write_bytes(bytes(512 * blocks))
    with pytest.raises(ArtifactError, match=r"zeros\.tar: contains no artifact; export the artifact again"):
        import_(target, tar)
    assert not target.root.exists()


def test_contents_are_the_artifacts_that_an_import_adds(tar: Path, target: Store) -> None:
    assert contents(tar) == dict(name.split("/") for name, _ in import_(target, tar))


def test_more_files_than_the_limit_are_refused(tar: Path, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.archive.MOST_FILES", 3)
    with pytest.raises(ArtifactError, match="more than 3 files"):
        import_(target, tar)
    assert not target.root.exists()


def _of_training(members: Members) -> str:
    return next(name for name in members if name.startswith("training/") and name.endswith(MANIFEST))


def _manifest(change: Callable[[dict], object]) -> Callable[[Members], Members]:  # type: ignore[type-arg]
    def altered(members: Members) -> Members:
        name = _of_training(members)
        manifest = orjson.loads(members[name])
        change(manifest)
        return {**members, name: orjson.dumps(manifest)}

    return altered


def _but(part: str, content: bytes | None) -> Callable[[Members], Members]:
    def altered(members: Members) -> Members:
        name = _of_training(members).removesuffix(MANIFEST) + part
        rest = {other: found for other, found in members.items() if other != name}
        return rest if content is None else {name: content, **{k: v for k, v in rest.items() if k.startswith("training/")}}

    return altered


@pytest.mark.parametrize(
    "alter",
    [
        _but("student/weights", b"other"),
        _but("student/weights", None),
        _but("student/more", b"more"),
        _but(MANIFEST, None),
        _but(MANIFEST, b"{"),
        _manifest(lambda manifest: manifest["identity"]["config"].update(rate=9)),
        _manifest(lambda manifest: manifest.update(fingerprint="0" * 16)),
        _manifest(lambda manifest: manifest.update(stage="report")),
        _manifest(lambda manifest: manifest.update(schema_version=99)),
        _manifest(lambda manifest: manifest.pop("inputs")),
        _manifest(lambda manifest: manifest["files"][0].update(sha256="0" * 64)),
        _manifest(lambda manifest: manifest["files"][0].update(bytes=1)),
        _manifest(lambda manifest: manifest["files"][0].update(path="../../evil")),
        _manifest(lambda manifest: manifest["files"].pop()),
    ],
)
def test_an_artifact_that_contradicts_its_manifest_is_refused(
    tar: Path, target: Store, alter: Callable[[Members], Members]
) -> None:
    _write(tar, alter(_members(tar)))
    with pytest.raises(ArtifactError, match=r"; (export the artifact again|remove its folder|upgrade to read it)"):
        import_(target, tar)
    there = files(target.root)
    assert not [name for name in there if name.startswith("training/") and ".lease/" not in name]


@settings(max_examples=25)
@given(st.data())
def test_a_truncated_tar_file_is_refused_and_imports_stay_complete(store: Store, tmp_path: Path, data: st.DataObject) -> None:
    made = [artifact.name for artifact in (chain(store) if not store.fingerprints("training") else [])]
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    if made:
        export(store, *made[2].split("/"), whole)
    content = whole.read_bytes()
    end = content.rstrip(b"\0")
    cut.write_bytes(content[: data.draw(st.integers(0, len(end)) | st.integers(0, len(end) // 512).map(lambda n: n * 512))])
    target = open_store(str(tmp_path / str(len(list(tmp_path.iterdir())))))
    with pytest.raises(ArtifactError, match=r"cut\.tar"):
        import_(target, cut)
    for stage in target.backend.names(""):
        for digest in target.fingerprints(stage):
            assert verify(target, stage, digest) == []
        assert not [name for name in target.backend.names(stage) if name.endswith((".incoming", ".scratch"))]


def test_a_refused_import_keeps_an_unfinished_draft(store: Store, tar: Path, target: Store) -> None:
    (digest,) = store.fingerprints("training")
    with target.draft("training", digest) as draft:
        draft.write_shard("rows", numbers(7))
    _write(tar, _but("student/weights", b"other")(_members(tar)))
    with pytest.raises(ArtifactError):
        import_(target, tar)
    with target.draft("training", digest) as draft:
        assert [table["number"].to_pylist() for table in draft.shards("rows")] == [[7]]
        assert set(files(draft.folder)) == {"rows-00000.parquet"}


def test_an_import_replaces_an_unfinished_draft(store: Store, tar: Path, target: Store) -> None:
    (digest,) = store.fingerprints("training")
    with target.draft("training", digest) as draft:
        draft.write_shard("rows", numbers(7))
        draft.write_shard("more", numbers(7))
    import_(target, tar)
    assert files(target.root) == files(store.root)


def _header(name: str, size: int, kind: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.USTAR_FORMAT)


def _record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = next(length for length in range(len(rest), len(rest) + 9) if length == len(rest) + len(str(length)))
    return str(length).encode() + rest


def _before(kind: bytes, content: bytes) -> bytes:
    return _header("x", len(content), kind) + content.ljust(-(-len(content) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    "headers",
    [
        *(_before(kind, _record("comment", "a")) * 3000 for kind in (b"x", b"g", b"X")),
        *(_before(kind, b"name\0") * 3000 for kind in (b"L", b"K")),
        _before(b"x", _record("size", "9" * 20)),
        _before(b"x", _record("GNU.sparse.size", "x")),
        _before(b"x", _record("GNU.sparse.map", "9" * 5000 + ",1")),
        _before(b"x", _record("GNU.sparse.major", "1") + _record("GNU.sparse.minor", "0")),
        _before(b"x", b"9" * 6000 + b" a=b\n"),
    ],
    ids=["x", "g", "X", "L", "K", "size", "sparse size", "sparse map", "sparse 1.0", "length"],
)
def test_a_header_that_no_tar_program_writes_is_one_line(tar: Path, target: Store, headers: bytes) -> None:
    tar.write_bytes(headers + tar.read_bytes())
    for read in (lambda: contents(tar), lambda: import_(target, tar)):
        with pytest.raises(ArtifactError, match=r"^\S+: (not a complete tar file|member .* is not an artifact's file).*export"):
            read()
    assert not target.root.exists()


def test_an_export_overwrites_a_tar_file_alone(store: Store, tar: Path, tmp_path: Path) -> None:
    student = store.fingerprints("training")[0]
    other = tmp_path / "questions.jsonl"
    other.write_text("{}")
    for taken in (other, tmp_path, store.folder("training", student) / MANIFEST):
        with pytest.raises(BadName, match="exists and is not a tar file; give another name"):
            export(store, "training", student, taken)
    assert other.read_text() == "{}"
    before = tar.read_bytes()
    export(store, "training", student, tar)
    assert tar.read_bytes() == before
    with pytest.raises(BadName, match="File name too long"):
        export(store, "training", student, tmp_path / ("x" * 300))
