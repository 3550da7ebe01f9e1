"""Writing into a lake, local or in an object store: whole objects or none, never over another."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable
from typing import BinaryIO, Final

from transforms.core.object_ref import processing_failure
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.storage.base import ObjectChanged, ObjectInfo, SupportsServerSideCopy, read_whole
from transforms.storage.local import LocalStorage
from transforms.storage.schemes import scheme_of, storage_of

LOG = logging.getLogger(__name__)
_REASONS: Final = {
    errno.ENOSPC: Reason.NO_SPACE,
    errno.EDQUOT: Reason.NO_SPACE,
    errno.EACCES: Reason.PERMISSION_DENIED,
    errno.EPERM: Reason.PERMISSION_DENIED,
    errno.EROFS: Reason.PERMISSION_DENIED,
    errno.EXDEV: Reason.OTHER_FILE_SYSTEM,
}


def put_bytes(target: str, data: bytes, *, scratch: str) -> bool:
    """Write an object if it is absent; a repeat with the same bytes changes nothing.

    Args:
        target: path or URI; folders are made.
        data: all its bytes.
        scratch: folder on the same file system for the file while it is not whole.

    Returns:
        Whether it is new.

    Raises:
        Unaccounted: other bytes stand there, or the storage refused.
    """
    return put_file(target, io.BytesIO(data), hashlib.sha256(data).hexdigest(), scratch=scratch)


def put_if_absent(target: str, data: bytes, *, scratch: str) -> None:
    """Like `put_bytes`, but what stands there stands, whatever it is: a retry writes other times."""
    if not exists(target):
        put_bytes(target, data, scratch=scratch)


def put_file(target: str, source: BinaryIO, sha256: str, *, scratch: str) -> bool:
    """Like `put_bytes`, from a file whose content is known."""
    return _put(lambda: storage_of(target).put(target, source, sha256, scratch))


def copy_server_side(target: str, source: str, version: str, sha256: str) -> bool:
    """Like `put_bytes`, by a store that has both and copies by itself: nothing is sent.

    Args:
        target: as of `put_bytes`.
        source: the object to copy.
        version: of the source, whose content is known.
        sha256: of its bytes, hex.

    Returns:
        Whether the bytes stand there; False where they must be sent.

    Raises:
        Unaccounted: other bytes stand there.
    """
    if scheme_of(target) != scheme_of(source):
        return False
    storage = storage_of(target)
    if not isinstance(storage, SupportsServerSideCopy):
        return False

    def copy() -> bool:
        try:
            storage.copy_server_side(target, source, version, sha256)
        except FileExistsError:
            raise
        except OSError as error:
            LOG.info("a store did not copy an object by itself: %s", type(error).__name__)
            return False
        return True

    return _put(copy)


def put_copy(target: str, source: str, sha256: str, *, scratch: str) -> bool:
    """Like `put_bytes`, from an object of any size whose content is known, read once more.

    Raises:
        Unaccounted: also where the source cannot be read or its bytes are no longer those of
            `sha256`.
    """
    with tempfile.TemporaryFile() as copy:
        try:
            storage_of(source).copy_to(source, None, copy)
        except OSError as error:
            raise processing_failure(error, Stage.PLACE) from error
        copy.seek(0)
        if hashlib.file_digest(copy, "sha256").hexdigest() != sha256:
            raise ProcessingFailure(Stage.PLACE, Reason.CHANGED)
        copy.seek(0)
        return put_file(target, copy, sha256, scratch=scratch)


def put_link(target: str, source: str, version: str, sha256: str, *, scratch: str) -> bool:
    """Like `put_copy`, by a hard link to a local source on the same file system, of this version."""

    def link() -> bool:
        try:
            return LocalStorage().put_link(target, source, version, sha256, scratch)
        except FileNotFoundError as error:
            raise processing_failure(error, Stage.PLACE) from error

    return _put(link)


def read_bytes(uri: str) -> bytes:
    """Return the bytes of an object of the lake.

    Raises:
        OSError: it cannot be read.
    """
    return read_whole(storage_of(uri), uri)


def list_files(folder: str, suffix: str = "") -> list[ObjectInfo]:
    """Return the objects below a folder, in order; none where there is no folder.

    Raises:
        OSError: a folder may not be listed.
    """
    return [f for f in storage_of(folder).list_below(folder) if f.uri.endswith(suffix)]


def exists(uri: str) -> bool:
    """Whether there is such an object; False where it may not be looked at."""
    try:
        return storage_of(uri).stat(uri) is not None
    except OSError:
        return False


def _put(put: Callable[[], bool]) -> bool:
    try:
        return put()
    except ObjectChanged as error:
        raise ProcessingFailure(Stage.PLACE, Reason.CHANGED) from error
    except FileExistsError as error:
        raise ProcessingFailure(Stage.PLACE, Reason.NAME_TAKEN) from error
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, Reason.WRITE_FAILED)
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise ProcessingFailure(Stage.PLACE, reason, code) from error
