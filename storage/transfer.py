"""An artifact with its ancestors as one tar file, to carry it to another machine.

Members are `stage/fingerprint/file`, the manifest of each artifact after its files. Nothing in a tar is believed: names are checked,
only plain files are read, and an artifact counts when every file has the manifest's hash and the manifest's identity gives its fingerprint.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Final

import orjson

from pipeline.errors import ArtifactError
from storage.artifact import MANIFEST
from storage.atomic import replace_file, sync_file
from storage.fingerprint import file_digest, fingerprint
from storage.lineage import ancestors
from storage.store import Store, parse_manifest

_MEMBER: Final = re.compile(r"([a-z][a-z0-9_]*)/([0-9a-f]{16})/([^/\\\0]+(?:/[^/\\\0]+)*)")


def export(store: Store, stage: str, digest: str, file: Path) -> list[str]:
    """Write an artifact and its ancestors to a tar file; returns their names."""
    chain = ancestors(store, stage, digest)

    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for name, manifest in reversed(chain.items()):
                artifact = store.open(*name.split("/"))
                for entry in manifest["files"]:
                    tar.add(artifact.path(entry["path"]), f"{name}/{entry['path']}", recursive=False)
                content = store.place.read(f"{name}/{MANIFEST}")
                assert content is not None, "it was read a moment ago"
                member = tarfile.TarInfo(f"{name}/{MANIFEST}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    replace_file(file, write)
    return list(chain)


def _member(member: tarfile.TarInfo, file: Path) -> tuple[str, str, str]:
    match = _MEMBER.fullmatch(member.name)
    if match is None or not member.isreg() or any(part in ("", ".", "..") for part in member.name.split("/")):
        raise ArtifactError(f"{file}: member {member.name!r} is not a file of an artifact; export the artifact again")
    return match[1], match[2], match[3]


def import_(store: Store, file: Path) -> list[tuple[str, bool]]:
    """Add the artifacts of a tar file; returns their names and whether each was new here.

    Raises:
        ArtifactError: the file, or something in it, is not what an export writes; artifacts before it are kept.
    """
    found: list[tuple[str, bool]] = []
    try:
        with tarfile.open(file, "r|") as tar:
            member = tar.next()
            while member is not None:
                stage, digest, _ = _member(member, file)
                new = not store.exists(stage, digest)
                member = _take_in(store, tar, member, file) if new else _skip(tar, f"{stage}/{digest}/")
                found.append((f"{stage}/{digest}", new))
    except (tarfile.TarError, OSError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{file}: not a whole tar file ({error}); export the artifact again") from error
    return found


def _skip(tar: tarfile.TarFile, prefix: str) -> tarfile.TarInfo | None:
    while (member := tar.next()) is not None and member.name.startswith(prefix):
        pass
    return member


def _take_in(store: Store, tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> tarfile.TarInfo | None:
    """Read one artifact, from its first member on; returns the member after its last."""
    stage, digest, _ = _member(member, file)
    with store.draft(stage, digest) as draft:
        shutil.rmtree(draft.folder)  # a run's unfinished draft: the whole artifact is here
        draft.folder.mkdir()
        content, current = None, member
        while current is not None and current.name.startswith(f"{stage}/{digest}/"):
            name = _member(current, file)[2]
            source = tar.extractfile(current)
            assert source is not None, "a plain file"
            if name == MANIFEST:
                content = source.read()
            else:
                path = draft.path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target)
                sync_file(path)
            current = tar.next()  # type: ignore[assignment]
        try:
            store.adopt(draft, _checked(content, draft.folder, digest, file))
        except ArtifactError:
            shutil.rmtree(draft.folder)
            raise
    return current


def _checked(content: bytes | None, folder: Path, digest: str, file: Path) -> bytes:
    """The manifest, if it and the files beside it belong together."""
    if content is None:
        raise ArtifactError(f"{file}: {digest} has no manifest; export the artifact again")
    manifest = parse_manifest(content, f"{file}: {digest}")
    if fingerprint(manifest["identity"]) != digest or manifest["fingerprint"] != digest:
        raise ArtifactError(f"{file}: {digest}: its identity does not give its fingerprint; export the artifact again")
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    there = {path.relative_to(folder).as_posix(): file_digest(path) for path in folder.rglob("*") if path.is_file()}
    if listed != there:
        wrong = sorted(name for name in listed.keys() | there.keys() if listed.get(name) != there.get(name))[0]
        raise ArtifactError(f"{file}: {digest}/{wrong}: not what its manifest says; export the artifact again")
    return orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2)
