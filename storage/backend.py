"""Storage backends: a local folder, or an object store through fsspec, behind the same few primitives.

Keys are relative paths with slashes. A `write` is visible completely or not at all; of several `create`s of one key exactly one succeeds,
on any number of machines. Nothing else is required of an object store: no rename, no append, no folders, no locks. Credentials and
endpoints come from the environment as the store's own library reads them (`AWS_...`), never from a URL or a configuration.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, Protocol

from storage.atomic import sync_file, sync_folder, write_bytes, writing
from storage.errors import ArtifactError, BadRoot, Damaged, RootNotWritable, RootUnavailable
from storage.fingerprint import file_digest

_S3_SETTINGS: Final = {
    "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 8}, "connect_timeout": 10, "read_timeout": 60}
}


class Entry(NamedTuple):
    """A file's size and its last modification time (seconds since 1970, by the store's clock)."""

    bytes: int
    modified: float


class Backend(Protocol):
    """The interface of a storage backend."""

    def has(self, key: str) -> bool: ...
    def read(self, key: str) -> bytes | None: ...
    def write(self, key: str, content: bytes) -> None: ...
    def create(self, key: str, content: bytes) -> bool: ...
    def names(self, folder: str) -> list[str]: ...
    def entries(self, folder: str) -> dict[str, Entry]: ...
    def remove(self, key: str) -> None: ...
    def remove_all(self, folder: str) -> None: ...


@dataclass(frozen=True)
class LocalBackend:
    """A local folder."""

    root: Path

    def has(self, key: str) -> bool:
        """Whether a document exists."""
        with _reading(self.root / key):
            return (self.root / key).is_file()

    def read(self, key: str) -> bytes | None:
        """A document, or None."""
        with _reading(self.root / key):
            try:
                return (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, key: str, content: bytes) -> None:
        """Replace a document."""
        with writing(self.root):
            (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.root / key, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write a document unless one exists; returns whether it was written.

        Hard-linking is the atomic step that only one of several processes can win.
        """
        path = self.root / key
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with writing(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(aside, content)
        try:
            path.hardlink_to(aside)
        except FileExistsError:
            return self.read(key) == content  # a network file system may repeat a request whose reply was lost
        except OSError as error:
            raise RootNotWritable(
                f"{self.root}: cannot create a hard link ({error.strerror}), so two processes could write one artifact; "
                "put root on a file system that supports hard links"
            ) from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def names(self, folder: str) -> list[str]:
        """Names directly under a folder, sorted, without writers' temporary files."""
        with _reading(self.root / folder):
            try:
                return sorted(item.name for item in os.scandir(self.root / folder) if not item.name.endswith(".tmp"))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def entries(self, folder: str) -> dict[str, Entry]:
        """Files directly under a folder."""
        found = {}
        for name in self.names(folder):
            with _reading(self.root / folder / name), suppress(FileNotFoundError):  # removed after it was listed
                status = (self.root / folder / name).stat()
                if stat.S_ISREG(status.st_mode):
                    found[name] = Entry(status.st_size, status.st_mtime)
        return found

    def remove(self, key: str) -> None:
        """Remove a document, if it exists."""
        with writing(self.root), suppress(FileNotFoundError, NotADirectoryError):
            (self.root / key).unlink()

    def remove_all(self, folder: str) -> None:
        """Remove a folder and everything in it."""
        with writing(self.root):
            shutil.rmtree(self.root / folder, onerror=_unless_gone)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a path into a line: no permission, a folder where a document should be, too long a name."""
    try:
        yield
    except OSError as error:
        where = str(path) if len(str(path)) <= 200 else f"{str(path)[:120]}...{str(path)[-60:]}"
        raise ArtifactError(
            f"{where}: cannot be read ({error.strerror}); correct root, or remove or repair this path"
        ) from error


def _unless_gone(function: Any, path: str, error: tuple[Any, BaseException, Any]) -> None:
    if not isinstance(error[1], FileNotFoundError | NotADirectoryError):
        raise error[1]


@dataclass(frozen=True)
class ObjectStore:
    """A prefix of an object store, for example `s3://bucket/prefix`."""

    url: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        protocol = self.url.partition("://")[0]
        settings = _S3_SETTINGS if protocol in ("s3", "s3a") else {}
        with self._reached():
            filesystem, prefix = fsspec.url_to_fs(self.url.rstrip("/"), use_listings_cache=False, **settings)
        return filesystem, prefix

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn connection errors that remain after the library's retries into one-line errors."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except ImportError as error:
            raise BadRoot(f"root: {self.url}: {error}; install the extra for this store, for example .[s3]") from error
        except (OSError, ValueError) as error:
            raise RootUnavailable(f"{self.url}: {error}; make sure that it is reachable, then run again to resume") from error
        except Exception as error:
            # The libraries under fsspec raise their own error types, one family per store.
            if type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure")):
                raise RootUnavailable(
                    f"{self.url}: {error}; make sure that it is reachable, then run again to resume"
                ) from error
            raise

    def _at(self, key: str) -> tuple[Any, str]:
        filesystem, prefix = self._opened
        return filesystem, f"{prefix}/{key}"

    def has(self, key: str) -> bool:
        """Whether a document exists."""
        filesystem, path = self._at(key)
        with self._reached():
            return bool(filesystem.exists(path))

    def read(self, key: str) -> bytes | None:
        """A document, or None."""
        filesystem, path = self._at(key)
        try:
            with self._reached():
                return bytes(filesystem.cat_file(path))
        except FileNotFoundError:
            return None

    @contextmanager
    def _taken_in(self) -> Iterator[None]:
        """`_reached` for writes: there, a missing file can only mean a missing bucket."""
        try:
            with self._reached():
                yield
        except FileNotFoundError as error:
            raise BadRoot(f"root: {self.url}: {error}; create the bucket, or correct root") from error

    @contextmanager
    def _created(self) -> Iterator[None]:
        """`_taken_in` for conditional puts: a key that exists or is being created elsewhere raises FileExistsError on every store."""
        try:
            with self._taken_in():
                yield
        except RootUnavailable as error:
            # s3fs raises FileExistsError only for stores that name the failed condition.
            answer = getattr(getattr(error.__cause__, "__cause__", None), "response", {})
            if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                raise FileExistsError(str(error)) from error
            raise

    def write(self, key: str, content: bytes) -> None:
        """Replace a document."""
        filesystem, path = self._at(key)
        with self._taken_in():
            filesystem.pipe_file(path, content)

    def create(self, key: str, content: bytes) -> bool:
        """Write a document unless one exists, by a conditional put. Contents must be unique to the caller.

        If the reply to a put is lost, the library repeats the put, which is then refused: equal content shows that the first one succeeded.
        """
        filesystem, path = self._at(key)
        try:
            with self._created():
                filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return self.read(key) == content
        return True

    def names(self, folder: str) -> list[str]:
        """Names directly under a folder, sorted."""
        return sorted(path.rstrip("/").rsplit("/", 1)[1] for path in self._list(folder))

    def entries(self, folder: str) -> dict[str, Entry]:
        """Files directly under a folder."""
        found = {path.rsplit("/", 1)[1]: item for path, item in self._list(folder).items() if item["type"] == "file"}
        return {name: _entry(item) for name, item in found.items()}

    def _list(self, folder: str) -> dict[str, dict[str, Any]]:
        filesystem, path = self._at(folder)
        try:
            with self._reached():
                return {item["name"]: item for item in filesystem.ls(path, detail=True, refresh=True) if item["name"] != path}
        except FileNotFoundError:
            return {}

    def tree(self, folder: str) -> dict[str, Entry]:
        """All files under a folder, at any depth, by their relative path."""
        filesystem, path = self._at(folder)
        with self._reached():
            found = filesystem.find(path, detail=True, refresh=True)
        return {name.removeprefix(path).lstrip("/"): _entry(item) for name, item in found.items()}

    def remove(self, key: str) -> None:
        """Remove a document, if it exists."""
        filesystem, path = self._at(key)
        with suppress(FileNotFoundError), self._reached():
            filesystem.rm_file(path)

    def remove_all(self, folder: str) -> None:
        """Remove everything under a folder."""
        for name in self.tree(folder):
            self.remove(f"{folder}/{name}")

    def upload(self, file: Path, key: str) -> None:
        """Upload a local file, overwriting an existing one."""
        filesystem, path = self._at(key)
        with self._taken_in():
            filesystem.put_file(str(file), path)

    def upload_new(self, file: Path, key: str) -> bool:
        """Upload a local file unless a different one exists; returns whether the store has its content now.

        Even a delayed request that arrives late cannot overwrite anything.
        """
        filesystem, path = self._at(key)
        try:
            with self._created():
                filesystem.put_file(str(file), path, mode="create")
        except FileExistsError:
            with TemporaryDirectory() as folder:
                there = Path(folder) / file.name
                self.download(key, there)
                return file_digest(there) == file_digest(file)
        return True

    def download(self, key: str, file: Path, digest: str | None = None) -> None:
        """Download a file atomically.

        Raises:
            FileNotFoundError: it does not exist.
            Damaged: its content does not have the digest.
            ArtifactError: its key contains `..`.
        """
        if ".." in key.split("/"):
            raise ArtifactError(f"{self.url}/{key}: unsafe path, not written by MIND; remove it")
        filesystem, path = self._at(key)
        aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
        try:
            with writing(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
                aside.touch()
            with self._reached():
                filesystem.get_file(path, str(aside))
            if digest is not None and file_digest(aside) != digest:
                raise Damaged(f"{self.url}/{key}: content differs from the manifest")
            sync_file(aside)
            aside.replace(file)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def check_conditional_put(self) -> None:
        """Reject a store on which two writers could both succeed.

        Raises:
            BadRoot: a second `create` of one key succeeded.
        """
        key = f".probe/{uuid.uuid4().hex}"
        try:
            if not self.create(key, b"first") or self.create(key, b"second"):
                raise BadRoot(
                    f"root: {self.url}: this store has no conditional put, so two processes could write one artifact; "
                    "use a store with conditional put, or a local folder"
                )
        finally:
            self.remove(key)


def _entry(item: dict[str, Any]) -> Entry:
    modified = item.get("LastModified") or item.get("mtime") or item.get("created") or 0.0
    return Entry(int(item["size"]), float(modified.timestamp() if hasattr(modified, "timestamp") else modified))
