"""Read source objects: exactly the version that was discovered."""

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
"""Error codes on which a copy is made in memory rather than on the disk."""


def read_ref(ref: ObjectRef, folder: str | None = None) -> SharedBytes:
    """Return the content of exactly this version of an object; the caller closes it.

    Args:
        ref: reference to the object.
        folder: as for `SharedBytes`; if its disk is full or fails, the content is in memory.

    Raises:
        ProcessingFailure: the object is missing, cannot be read, or has changed.
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


def hash_ref(ref: ObjectRef) -> str:
    """Return the sha256, hex, of exactly this version of an object of any size.

    Raises:
        ProcessingFailure: as `read_ref`.
    """
    try:
        return sha256_of(storage_of(ref.uri), ref.uri, ref.version)
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
