"""Reads source objects: exactly the version that was discovered, or a failure."""

from __future__ import annotations

import errno
from typing import Final

from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.shared_bytes import SharedBytes, can_be_mapped
from transforms.core.storage_failures import FULL_DISK, read_failure
from transforms.storage.base import ObjectChanged, sha256_of
from transforms.storage.local import LocalStorage, has_version
from transforms.storage.schemes import storage_of

DISK_ERRORS: Final = (*FULL_DISK, errno.EFBIG, errno.EIO, errno.EROFS)
"""Errors of writing a copy to a disk, on which the copy is made in memory."""


def read_ref(ref: ObjectRef, folder: str | None = None) -> SharedBytes:
    """Read the bytes of exactly this version; the caller closes them.

    Args:
        ref: the version.
        folder: as of `SharedBytes`; if its disk is full or fails, the bytes are in memory.

    Raises:
        ProcessingFailure: the object is gone, cannot be read, or changed.
    """
    data = SharedBytes(folder)
    try:
        storage_of(ref.uri).copy_to(ref.uri, ref.version, data.file)
        if data.size != ref.size:
            raise ObjectChanged("the size differs from the listed one")
    except OSError as error:
        data.close()
        if not data.in_memory and error.errno in DISK_ERRORS:
            return read_ref(ref)
        raise read_failure(error, Stage.FETCH) from error
    return data


def open_ref(ref: ObjectRef) -> SharedBytes:
    """Open a local file without a copy; as `read_ref` if it cannot be mapped.

    Call `require_unchanged` after the bytes were used: the file may be written to meanwhile.

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
    """Raise unless the file that `open_ref` opened still has the same version.

    Raises:
        ProcessingFailure: it has another one.
    """
    if not data.in_memory and not has_version(ref.version, data.file):
        raise ProcessingFailure(Stage.FETCH, Reason.CHANGED)


def hash_ref(ref: ObjectRef) -> str:
    """Return the hex sha256 of exactly this version; the object may exceed the memory.

    Raises:
        ProcessingFailure: as `read_ref`.
    """
    try:
        return sha256_of(storage_of(ref.uri), ref.uri, ref.version)
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
