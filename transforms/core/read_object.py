"""Read source objects: exactly the version that was discovered."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, BinaryIO, Final

from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.shared_bytes import SharedBytes, can_be_mapped
from transforms.core.storage_failures import FULL_DISK, read_failure
from transforms.storage.base import (
    UNKNOWN_SIZE,
    HashingSink,
    ObjectChanged,
    SupportsParallelReads,
)
from transforms.storage.local import LocalStorage, has_version
from transforms.storage.schemes import archives, is_local, storage_of

DISK_ERRORS: Final = (*FULL_DISK, errno.EFBIG, errno.EIO, errno.EROFS)
"""Error codes on which a copy is made in memory rather than on the disk."""


PART_BYTES: Final = 16 << 20
"""Size of the parts in which a larger object is read from a store."""
UNKNOWN_MEMORY_BYTES: Final = 32 << 20
"""Memory that is reserved for an object of unknown size."""


class ObjectTooLarge(Exception):
    """An object of unknown size is larger than the limit; not an `OSError`, which would be retried."""


class _LimitedSink:
    """A writable file that ends the download of an object above a limit."""

    def __init__(self, sink: BinaryIO, max_bytes: int) -> None:
        self._sink, self._remaining = sink, max_bytes

    def write(self, data: bytes) -> int:
        self._remaining -= len(data)
        if self._remaining < 0:
            raise ObjectTooLarge
        return self._sink.write(data)


class RefReader:
    """Reads the content of exactly one version of an object, in parts that may run at the same time.

    Each part is read on condition of the version: parts of two versions are never mixed.

    Args:
        ref: reference to the object.
        folder: as for `SharedBytes`; if its disk is full or fails, the content is in memory.
        max_bytes: limit on an object of unknown size.
    """

    def __init__(
        self, ref: ObjectRef, folder: str | None = None, *, max_bytes: int = sys.maxsize
    ) -> None:
        self._ref, self._folder, self._max_bytes = ref, folder, max_bytes
        self._data: SharedBytes | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory for the content, and for parts of it as they are received."""
        if self._ref.size == UNKNOWN_SIZE:
            return min(self._max_bytes, UNKNOWN_MEMORY_BYTES)
        return self._ref.size * (1 if is_local(self._ref.uri) else 2)

    def parts(self) -> list[Callable[[], None]]:
        """Return the calls that read the parts, to be followed by `finish`, as is an error of this one.

        Raises:
            OSError: there is no connection to the store, or no memory.
        """
        ref, storage = self._ref, storage_of(self._ref.uri)
        data = self._data = SharedBytes(self._folder)
        if ref.size == UNKNOWN_SIZE:
            sink: Any = _LimitedSink(data.file, self._max_bytes)
            return [partial(storage.copy_to, ref.uri, ref.version, sink)]
        if not isinstance(storage, SupportsParallelReads):
            return [partial(storage.copy_to, ref.uri, ref.version, data.file)]
        if ref.size <= PART_BYTES:
            return [lambda: data.fill(storage.read_part(ref.uri, ref.version))]
        return [
            partial(_read_part, storage, ref, data, start)
            for start in range(0, ref.size, PART_BYTES)
        ]

    def finish(self, error: BaseException | None = None) -> SharedBytes:
        """Return the content after all parts are read; the caller closes it.

        Args:
            error: what a part raised.

        Raises:
            ProcessingFailure: the object is missing, cannot be read, or has changed.
            ObjectTooLarge: its size was unknown and exceeds the limit.
        """
        data = self._data
        try:
            if error is not None or data is None:
                raise error or ValueError("no part was read")
            if self._ref.size not in (UNKNOWN_SIZE, data.size):
                raise ObjectChanged("the size differs from the listed one")
        except OSError as failure:
            self._close()
            if data is not None and not data.in_memory and failure.errno in DISK_ERRORS:
                return read_ref(self._ref, max_bytes=self._max_bytes)
            raise read_failure(failure, Stage.FETCH) from failure
        except BaseException:
            self._close()
            raise
        return data

    def _close(self) -> None:
        if self._data is not None:
            self._data.close()


def _read_part(
    storage: SupportsParallelReads, ref: ObjectRef, data: SharedBytes, start: int
) -> None:
    end = min(ref.size, start + PART_BYTES)
    part = storage.read_part(ref.uri, ref.version, start, end)
    if len(part) != end - start:
        raise ObjectChanged("the size differs from the listed one")
    data.write_at(start, part)


def read_ref(
    ref: ObjectRef, folder: str | None = None, *, max_bytes: int = sys.maxsize
) -> SharedBytes:
    """Return the content of exactly this version of an object; the caller closes it.

    Arguments and errors are those of `RefReader`.
    """
    reader = RefReader(ref, folder, max_bytes=max_bytes)
    return reader.finish(first_error(reader.parts))


def first_error(parts: Callable[[], Iterable[Callable[[], None]]]) -> BaseException | None:
    """Call what a function returns, one after the other; return the first exception, or None."""
    try:
        for call in parts():
            call()
    except BaseException as error:
        return error
    return None


def read_member(ref: ObjectRef, folder: str | None = None) -> tuple[SharedBytes, Reason | None]:
    """Return the content of a member of an archive, or its stored bytes and why it has no other.

    Args:
        ref: reference to the member.
        folder: as for `RefReader`.

    Raises:
        ProcessingFailure: as `read_ref`.
    """
    data = SharedBytes(folder)
    try:
        problem = archives().copy_member(ref.uri, ref.version, data.file)
    except OSError as error:
        data.close()
        if not data.in_memory and error.errno in DISK_ERRORS:
            return read_member(ref)
        raise read_failure(error, Stage.FETCH) from error
    return data, Reason(problem) if problem else None


def open_ref(ref: ObjectRef) -> SharedBytes:
    """Map a local file without a copy; as `read_ref` if it cannot be mapped.

    Call `require_unchanged` after using the content, because other programs may write to the file.

    Raises:
        ProcessingFailure: as `read_ref`.
    """
    try:
        file = LocalStorage().open_version(ref.uri, ref.version)
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
    if can_be_mapped(file):
        return SharedBytes.from_file(file)
    file.close()
    return read_ref(ref)


def require_unchanged(ref: ObjectRef, data: SharedBytes) -> None:
    """Raise if the file that `open_ref` has opened was changed.

    Raises:
        ProcessingFailure: the file has another version.
    """
    if not data.in_memory and not has_version(ref.version, data.file):
        raise ProcessingFailure(Stage.FETCH, Reason.CHANGED)


def hash_ref(ref: ObjectRef, head_bytes: int = 0) -> tuple[str, int, bytes]:
    """Return the sha256 (hex), size and first bytes of exactly this version of an object of any size.

    Raises:
        ProcessingFailure: as `read_ref`.
    """
    sink = HashingSink(head_bytes)
    try:
        storage_of(ref.uri).copy_to(ref.uri, ref.version, sink)  # type: ignore[arg-type]
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
    return sink.hexdigest(), sink.size, sink.head
