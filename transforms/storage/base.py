"""What the router needs of a place that keeps objects: a file system or an object store."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, runtime_checkable

BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class ObjectInfo:
    """One version of one object, as its place lists it.

    Attributes:
        uri: absolute path of a local file, or `gs://…`, `s3://…`.
        version: `<size>-<mtime_ns>` (local), generation (gs), ETag (s3).
        size: in bytes.
        sha256: hex, where this router wrote the object and the place keeps such a note.
        modified: when this version came to be there, seconds since 1970.
    """

    uri: str
    version: str
    size: int
    sha256: str | None = None
    modified: float | None = None


class ObjectChanged(OSError):
    """An object is no longer the version that was asked for."""


class LockLost(RuntimeError):
    """A lock lapsed, was taken by another process, or was released; made from its URI."""

    def __str__(self) -> str:
        return f"the lock {self.args[0]} is no longer held; run the same command again"


class ConditionalWritesUnsupported(OSError):
    """A store knows no conditional writes."""


class Storage(Protocol):
    """A place that keeps objects. What it refuses is an `OSError`, of the kind that fits best."""

    def stat(self, uri: str) -> ObjectInfo | None:
        """Return the object of this name, or None."""

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        """List every object below a folder, in order of their names; nothing where there is none."""

    def match(self, pattern: str, excluded: Sequence[str] = ()) -> Iterator[ObjectInfo | OSError]:
        """List the objects that a pattern names, in order of their names.

        What exists under the very name is taken literally, so that names with glob characters work.

        Args:
            pattern: name of an object, of a folder (all below it), or a glob where ** spans folders.
            excluded: folders whose objects are never listed.

        Yields:
            What was found, and the error of each folder or object that cannot be looked at.
        """

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """Write the bytes of exactly this version (None: whichever stands there) into a file.

        Raises:
            Changed: it is another version, before or while it is read.
            FileNotFoundError: it is gone.
        """

    def put(self, uri: str, source: BinaryIO, sha256: str, scratch: str) -> bool:
        """Write an object if it is absent: whole or not at all, and never over another.

        Args:
            uri: its name.
            source: its bytes, from where the file stands; it can seek.
            sha256: of the bytes, hex.
            scratch: local folder for the file while it is not whole; object stores need none.

        Returns:
            Whether it is new; False where the same bytes stand there.

        Raises:
            FileExistsError: other bytes stand there.
        """

    def remove(self, uri: str) -> None:
        """Remove an object; nothing where there is none."""


@runtime_checkable
class SupportsServerSideCopy(Protocol):
    """A store that copies an object on condition, without a byte sent to or from here."""

    def copy_server_side(self, uri: str, source: str, version: str, sha256: str) -> bool:
        """Like `Storage.put`, from another object of the store.

        Args:
            uri: as of `put`.
            source: name of the other object.
            version: of the other object.
            sha256: of its bytes, hex.

        Raises:
            FileExistsError: other bytes stand there.
            Changed: the source is another version.
            FileNotFoundError: it is gone.
        """


class SupportsConditionalWrites(Storage, Protocol):
    """A store without file locks, where a lock is an object that its holder renews."""

    def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
        """Write a small object if its version is still this one; None: if there is none.

        Returns:
            The new version, or None where another stands there.

        Raises:
            FileNotFoundError: there is no such bucket.
            NoConditions: the store cannot do this.
        """


class Digest:
    """A file to write into that keeps nothing but the sha256 of what it was given."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take bytes in."""
        self._sha256.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: files have it."""

    def hexdigest(self) -> str:
        """Return the sha256 so far."""
        return self._sha256.hexdigest()


def sha256_of(storage: Storage, uri: str, version: str | None = None) -> str:
    """Return the hex sha256 of an object's bytes, read whole.

    Raises:
        OSError: as `Storage.copy_to`.
    """
    digest = Digest()
    storage.copy_to(uri, version, digest)  # type: ignore[arg-type]
    return digest.hexdigest()


def read_whole(storage: Storage, uri: str) -> bytes:
    """Return the bytes of an object.

    Raises:
        OSError: it cannot be read.
    """
    data = io.BytesIO()
    storage.copy_to(uri, None, data)
    return data.getvalue()


def bytes_left(source: BinaryIO) -> int:
    """Return how many bytes a file has from where it stands."""
    here = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(here)
    return end - here


def already_stored(storage: Storage, uri: str, sha256: str) -> bool:
    """Whether an object stands there.

    Raises:
        FileExistsError: it has other bytes.
    """
    found = storage.stat(uri)
    if found is None:
        return False
    if not has_same_content(storage, found, sha256):
        raise FileExistsError(errno.EEXIST, "other bytes stand there", found.uri)
    return True


def has_same_content(storage: Storage, found: ObjectInfo, sha256: str) -> bool:
    """Whether an object's bytes are those of a sha256; read only where no note tells."""
    if found.sha256 is not None:
        return found.sha256 == sha256
    return sha256_of(storage, found.uri) == sha256
