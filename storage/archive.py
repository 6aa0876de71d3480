"""Exports an artifact with its ancestors as one tar file, and imports it on another machine.

Members are `stage/fingerprint/file`; each artifact's manifest comes after its files. The contents of a tar file are not trusted: names are
checked, only regular files are read, and an artifact is accepted only if every file has the manifest's hash and the manifest's identity
gives its fingerprint. Names, depth and number of all members are checked before anything is written.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from storage import lease
from storage.artifact import MANIFEST
from storage.atomic import replace_file, sync_file, writing
from storage.documents import DEEPEST, parse_manifest
from storage.errors import ArtifactError, BadName, StorageError
from storage.fingerprint import file_digest, fingerprint
from storage.lineage import ancestors
from storage.store import Store

_MANIFEST_BYTES: Final = 64 * 2**20
MOST_FILES: Final = 1_000_000
_HEADER_BYTES: Final = 2**20
"""Largest header of a member; a path has at most a few thousand bytes."""
_MEMBER: Final = re.compile(r"([a-z][a-z0-9_]*)/([0-9a-f]{16})/([^/\\\0]+(?:/[^/\\\0]+)*)")


def export(store: Store, stage: str, digest: str, file: Path) -> list[str]:
    """Write an artifact and its ancestors to a tar file; returns their names.

    Raises:
        BadName: `file` exists and is no tar file, so that something else would be overwritten.
    """
    _check_target(file)
    chain = ancestors(store, stage, digest)

    def write(path: Path) -> None:
        with tarfile.open(path, "w", dereference=True) as tar:
            for name, manifest in reversed(chain.items()):
                artifact = store.open(*name.split("/"))
                for entry in manifest["files"]:
                    tar.add(artifact.path(entry["path"]), f"{name}/{entry['path']}", recursive=False, filter=_anonymous)
                content = store.backend.read(f"{name}/{MANIFEST}")
                assert content is not None, "store.open has read it"
                member = tarfile.TarInfo(f"{name}/{MANIFEST}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    replace_file(file, write)
    return list(chain)


def _check_target(file: Path) -> None:
    try:
        if file.exists() and not (file.is_file() and tarfile.is_tarfile(file)):
            raise BadName(f"{file}: exists and is not a tar file; give another name")
    except OSError as error:
        raise BadName(f"{str(file)[:200]}: cannot be written ({error.strerror}); give another file") from error


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
    return member


def _member(member: tarfile.TarInfo, file: Path) -> tuple[str, str, str]:
    match = _MEMBER.fullmatch(member.name)
    parts = member.name.split("/")
    plain = member.isreg() and not member.issparse() and not {"", ".", ".."} & {*parts}
    short = len(parts) - 2 <= DEEPEST and all(len(part.encode(errors="surrogateescape")) <= 255 for part in parts)
    if match is None or not plain or not short or match[1] in ("runs", "pointers"):
        name = member.name if len(member.name) <= 100 else f"{member.name[:100]}..."
        raise ArtifactError(f"{file}: member {name!r} is not an artifact's file; export the artifact again")
    return match[1], match[2], match[3]


class _Headers(io.FileIO):
    """A tar file of which only headers are read: `tarfile` would read a header of any size into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError("a member's header is too large")
        return super().read(size) or b""


def contents(file: Path) -> dict[str, str]:
    """Stage -> fingerprint of the artifacts in a tar file; of several of one stage the last, which is the one nearest to the exported.

    Raises:
        ArtifactError: a member was not written by `export`, there are none, or more than `MOST_FILES`.
    """
    found: dict[str, str] = {}
    with _reading(file):
        _see_the_end(file)
        with _Headers(file) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, member in enumerate(iter(tar.next, None)):
                if number >= MOST_FILES:
                    raise ArtifactError(f"{file}: more than {MOST_FILES:,} files; not written by `mind export`")
                stage, digest, _ = _member(member, file)
                found[stage] = digest
                tar.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
    if not found:
        raise ArtifactError(f"{file}: contains no artifact; export the artifact again")
    return found


def import_(store: Store, file: Path) -> list[tuple[str, bool]]:
    """Add the artifacts of a tar file; returns their names and whether each was new to the store.

    Raises:
        ArtifactError: the file or a member was not written by `export`; artifacts before it are kept.
        ArtifactBusy: another process writes or removes one of the artifacts.
    """
    contents(file)
    found: list[tuple[str, bool]] = []
    with _reading(file), tarfile.open(file, "r|") as tar:
        member = tar.next()
        while member is not None:
            stage, digest, _ = _member(member, file)
            # In this order: the caller has recorded the run, so garbage collection keeps what exists and is not being removed now.
            new = lease.may_be_held(store.backend, f"{stage}/{digest}.lease") or not store.exists(stage, digest)
            member = _take_in(store, tar, member, file) if new else _skip(tar, f"{stage}/{digest}/")
            found.append((f"{stage}/{digest}", new))
    return found


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn errors of reading a tar file into a line. `tarfile` raises many others for numbers, maps and chains of headers that no tar
    program writes."""
    try:
        yield
    except StorageError:
        raise
    except RecursionError:
        raise ArtifactError(f"{file}: not a complete tar file (a chain of headers); export the artifact again") from None
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{file}: not a complete tar file ({reason}); export the artifact again") from error


def _see_the_end(file: Path) -> None:
    """Check for the zero blocks at the end: a tar file truncated between two artifacts is otherwise valid."""
    with file.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
        if size % tarfile.BLOCKSIZE or stream.read().strip(b"\0") or not size:
            raise tarfile.ReadError("truncated")


def _skip(tar: tarfile.TarFile, prefix: str) -> tarfile.TarInfo | None:
    while (member := tar.next()) is not None and member.name.startswith(prefix):
        pass
    return member


def _take_in(store: Store, tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> tarfile.TarInfo | None:
    """Read one artifact, starting with its first member; returns the member after its last."""
    stage, digest, _ = _member(member, file)
    with store.draft(stage, digest) as draft:
        if store.exists(stage, digest):  # another process has finished it since
            draft.lease.finished = True
            return _skip(tar, f"{stage}/{digest}/")
        # Unpacked aside, so that an unfinished draft of a run stays intact until the whole artifact is checked.
        incoming = draft.folder.with_suffix(".incoming")
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            with writing(store.root):
                following, content = _unpack(tar, member, incoming, file)
            manifest = _checked(content, incoming, (stage, digest), file)
            shutil.rmtree(draft.folder)
            incoming.rename(draft.folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        store.adopt(draft, manifest)
    return following


def _unpack(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, file: Path
) -> tuple[tarfile.TarInfo | None, bytes | None]:
    """Write the files of one artifact; returns the member after its last, and its manifest."""
    stage, digest, _ = _member(member, file)
    content, current = None, member
    folder.mkdir()
    while current is not None and current.name.startswith(f"{stage}/{digest}/"):
        name = _member(current, file)[2]
        source = tar.extractfile(current)
        assert source is not None, "a regular file"
        if name == MANIFEST:
            content = source.read(_MANIFEST_BYTES)
        else:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(source, target)
            sync_file(path)
        current = tar.next()  # type: ignore[assignment]
    return current, content


def _checked(content: bytes | None, folder: Path, name: tuple[str, str], file: Path) -> bytes:
    """The manifest, if it matches its name and its files."""
    digest = name[1]
    if content is None:
        raise ArtifactError(f"{file}: {digest} has no manifest; export the artifact again")
    manifest = parse_manifest(content, f"{file}: {digest}")
    if fingerprint(manifest["identity"]) != digest or (manifest["stage"], manifest["fingerprint"]) != name:
        raise ArtifactError(f"{file}: {digest}: identity and fingerprint do not match; export the artifact again")
    listed = {entry["path"]: (entry["bytes"], entry["sha256"]) for entry in manifest["files"]}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    there = {path.relative_to(folder).as_posix(): (path.stat().st_size, file_digest(path)) for path in paths}
    if listed != there:
        wrong = sorted(name for name in listed.keys() | there.keys() if listed.get(name) != there.get(name))[0]
        raise ArtifactError(f"{file}: {digest}/{wrong}: differs from the manifest; export the artifact again")
    return orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2)
