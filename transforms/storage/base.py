"""The interface of a storage: a file system or an object store."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

from transforms.storage.permissions import FILE_MODE
from transforms.storage.selection import ALL, Selection, Skipped

BLOCK_BYTES: Final = 1 << 20
UNKNOWN_SIZE: Final = -1
"""Size of an object whose storage does not list sizes."""
MAX_TIME: Final = 7_258_118_400
"""2200-01-01 UTC, in seconds since 1970."""


@dataclass(frozen=True)
class ObjectInfo:
    """One version of one object, as its storage lists it.

    Attributes:
        uri: absolute path of a local file, or `gs://…`, `s3://…`.
        version: `<size>-<mtime_ns>` (local), generation (gs), ETag (s3).
        size: in bytes, or `UNKNOWN_SIZE`.
        sha256: hex, where this program wrote the object and the storage keeps metadata.
        modified: when this version was written, seconds since 1970; None: as `plausible_time`.
        state: `<ctime_ns>-<inode>` (local), which may change without the content; else None.
    """

    uri: str
    version: str
    size: int
    sha256: str | None = None
    modified: float | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modified", plausible_time(self.modified))


def plausible_time(seconds: float | None) -> float | None:
    """Return a time in seconds since 1970; None if it is unknown or outside 0..`MAX_TIME`.

    A file system may hold any time, of which Beam's timestamps and dates do not hold all.
    """
    return seconds if seconds is not None and 0 <= seconds <= MAX_TIME else None


class ObjectChanged(OSError):
    """An object is no longer the requested version."""


class ConditionalWritesUnsupported(OSError):
    """A store has no conditional writes."""


class LockLost(RuntimeError):
    """A lock lapsed, was taken by another process, or was released; made from its URI."""

    def __str__(self) -> str:
        return f"the lock {self.args[0]} is no longer held; run the same command again"


class Storage(Protocol):
    """A storage of objects. Every failure is an `OSError` of the closest kind."""

    def stat(self, uri: str) -> ObjectInfo | None:
        """Return the current version of an object, or None where there is no such object."""

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        """List every object below a folder, ordered by name; nothing if the folder is missing."""

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        """List the objects that match a pattern, ordered by name.

        An existing object or folder is taken literally, even if its name has glob characters.

        Args:
            pattern: name of an object, of a folder (everything below it), or a glob in which `**`
                spans folders.
            selection: names that are inputs. Lakes are never listed.

        Yields:
            Each object, each skipped name, and the error of each folder or object that cannot be listed.
        """

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """Copy the bytes of exactly this version into a file; None: of the current version.

        Raises:
            ObjectChanged: the object has another version, before or while it is read.
            FileNotFoundError: there is no such object.
        """

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        """Return some bytes of exactly this version; fewer at its end.

        Raises:
            ObjectChanged, FileNotFoundError: as `copy_to`.
        """

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = FILE_MODE
    ) -> bool:
        """Write an object if it is absent: completely or not at all, and never over another.

        Args:
            uri: name of the object.
            source: a seekable file, read from its current position.
            sha256: of the bytes, hex.
            scratch: local folder for the partial file; unused by object stores.
            file_mode: permissions of the file, from which those of new folders follow; unused by object
                stores.

        Returns:
            True if the object is new; False if it exists with the same bytes.

        Raises:
            FileExistsError: the object exists with other bytes.
        """

    def remove(self, uri: str) -> None:
        """Remove an object; do nothing where there is none."""


@runtime_checkable
class SupportsParallelReads(Protocol):
    """A store that answers several requests for parts of an object at the same time."""

    def read_part(self, uri: str, version: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes of exactly this version from a position up to another one, or to its end.

        They are in memory at once. The content of a whole object is compared with the checksum that the
        store has for it, if it has one.

        Raises:
            ObjectChanged, FileNotFoundError: as `Storage.copy_to`.
        """


@runtime_checkable
class SupportsServerSideCopy(Protocol):
    """A store that copies an object conditionally, without sending its bytes through the client."""

    def copy_server_side(self, uri: str, source: str, version: str, sha256: str) -> bool:
        """Copy another object of the store if the target is absent, as `Storage.put` does.

        Args:
            uri: name of the target.
            source: name of the source.
            version: of the source.
            sha256: of the source's bytes, hex.

        Returns:
            As `Storage.put`.

        Raises:
            FileExistsError: the target exists with other bytes.
            ObjectChanged: the source has another version.
            FileNotFoundError: there is no source.
        """


class SupportsConditionalWrites(Storage, Protocol):
    """A store without file locks, in which a lock is an object that its holder renews."""

    def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
        """Write a small object if it still has this version; None: if it is absent.

        Returns:
            The new version, or None if the object has another version.

        Raises:
            FileNotFoundError: there is no such bucket.
            ConditionalWritesUnsupported: the store cannot do this.
        """


class HashingSink:
    """A writable file that keeps only the sha256, the size and the first bytes of what is written.

    Args:
        head_bytes: number of first bytes to keep.

    Attributes:
        size: in bytes.
        head: the first bytes.
    """

    def __init__(self, head_bytes: int = 0) -> None:
        self._sha256, self._head_bytes = hashlib.sha256(), head_bytes
        self.size, self.head = 0, b""

    def write(self, data: bytes) -> int:
        """Hash bytes, and return their number."""
        if len(self.head) < self._head_bytes:
            self.head += bytes(data[: self._head_bytes - len(self.head)])
        self._sha256.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing; part of the file interface."""

    def reset(self) -> None:
        """Start again with no bytes."""
        self._sha256 = hashlib.sha256()
        self.size, self.head = 0, b""

    def hexdigest(self) -> str:
        """Return the sha256 so far, hex."""
        return self._sha256.hexdigest()


def sha256_of(storage: Storage, uri: str, version: str | None = None) -> str:
    """Return the hex sha256 of an object, from reading all its bytes.

    Raises:
        OSError: as `Storage.copy_to`.
    """
    sink = HashingSink()
    storage.copy_to(uri, version, sink)  # type: ignore[arg-type]
    return sink.hexdigest()


class _LimitedBuffer(io.BytesIO):
    """Bytes in memory; writing more than the limit is an error."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._max_bytes:
            raise OSError(errno.EFBIG, f"larger than {self._max_bytes} bytes")
        return super().write(data)


def read_whole(storage: Storage, uri: str, max_bytes: int | None = None) -> bytes:
    """Return the bytes of an object.

    Args:
        storage: storage of the object.
        uri: name of the object.
        max_bytes: maximum size; None for any.

    Raises:
        OSError: as `Storage.copy_to`, or the object is larger (EFBIG).
    """
    data = io.BytesIO() if max_bytes is None else _LimitedBuffer(max_bytes)
    storage.copy_to(uri, None, data)
    return data.getvalue()


def remaining_bytes(source: BinaryIO) -> int:
    """Return the number of bytes from a file's current position to its end."""
    position = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(position)
    return end - position


def already_stored(storage: Storage, uri: str, sha256: str) -> bool:
    """Return whether an object exists with these bytes.

    Raises:
        FileExistsError: it exists with other bytes.
    """
    found = storage.stat(uri)
    if found is None:
        return False
    if not has_same_content(storage, found, sha256):
        raise FileExistsError(errno.EEXIST, "the object exists with other bytes", found.uri)
    return True


def has_same_content(storage: Storage, found: ObjectInfo, sha256: str) -> bool:
    """Return whether an object has this sha256; read it only if its metadata has none."""
    if found.sha256 is not None:
        return found.sha256 == sha256
    return sha256_of(storage, found.uri) == sha256
