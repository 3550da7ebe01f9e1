"""Read source objects: exactly the version that was discovered."""

from __future__ import annotations

import errno
import sys
from typing import Any, BinaryIO, Final

from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.shared_bytes import SharedBytes, can_be_mapped
from transforms.core.storage_failures import FULL_DISK, read_failure
from transforms.storage.base import UNKNOWN_SIZE, HashingSink, ObjectChanged
from transforms.storage.local import LocalStorage, has_version
from transforms.storage.schemes import archives, storage_of

DISK_ERRORS: Final = (*FULL_DISK, errno.EFBIG, errno.EIO, errno.EROFS)
"""Error codes on which a copy is made in memory rather than on the disk."""


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


def read_ref(
    ref: ObjectRef, folder: str | None = None, *, max_bytes: int = sys.maxsize
) -> SharedBytes:
    """Return the content of exactly this version of an object; the caller closes it.

    Args:
        ref: reference to the object.
        folder: as for `SharedBytes`; if its disk is full or fails, the content is in memory.
        max_bytes: limit on an object of unknown size.

    Raises:
        ProcessingFailure: the object is missing, cannot be read, or has changed.
        ObjectTooLarge: its size was unknown and exceeds the limit.
    """
    data = SharedBytes(folder)
    try:
        if ref.size == UNKNOWN_SIZE:
            sink: Any = _LimitedSink(data.file, max_bytes)
            storage_of(ref.uri).copy_to(ref.uri, ref.version, sink)
        else:
            storage_of(ref.uri).copy_to(ref.uri, ref.version, data.file)
            if data.size != ref.size:
                raise ObjectChanged("the size differs from the listed one")
    except ObjectTooLarge:
        data.close()
        raise
    except OSError as error:
        data.close()
        if not data.in_memory and error.errno in DISK_ERRORS:
            return read_ref(ref, max_bytes=max_bytes)
        raise read_failure(error, Stage.FETCH) from error
    return data


def read_member(ref: ObjectRef, folder: str | None = None) -> tuple[SharedBytes, Reason | None]:
    """Return the content of a member of an archive, or its stored bytes and why it has no other.

    Args:
        ref: reference to the member.
        folder: as for `read_ref`.

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
