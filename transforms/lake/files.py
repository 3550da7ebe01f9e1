"""Reads and writes the files of a lake: whole objects or none, and never over another."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import BinaryIO

from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure, write_failure
from transforms.lake.layout import is_lake_name
from transforms.storage.base import ObjectInfo, SupportsServerSideCopy, read_whole
from transforms.storage.local import LocalStorage, uri_to_path
from transforms.storage.schemes import is_below, scheme_of, storage_of
from transforms.storage.temporary import unnamed_file

LOG = logging.getLogger(__name__)


def put_bytes(target: str, data: bytes, *, scratch: str) -> bool:
    """Write an object if it is absent; a repetition with the same bytes changes nothing.

    Args:
        target: path or URI; folders are made.
        data: all its bytes.
        scratch: folder on the same file system for the partial file.

    Returns:
        Whether the object is new.

    Raises:
        ProcessingFailure: the object exists with other bytes, or the storage refused.
    """
    return put_file(target, io.BytesIO(data), hashlib.sha256(data).hexdigest(), scratch=scratch)


def put_if_absent(target: str, data: bytes, *, scratch: str) -> None:
    """As `put_bytes`, but an existing object may have other bytes: a retry has other timestamps."""
    with contextlib.suppress(OSError):  # a storage that refuses to answer refuses the write, too
        if exists(target):
            return
    put_bytes(target, data, scratch=scratch)


def put_file(target: str, source: BinaryIO, sha256: str, *, scratch: str) -> bool:
    """As `put_bytes`, from a seekable file whose sha256 is known."""
    return _put(lambda: storage_of(target).put(target, source, sha256, scratch))


def copy_server_side(target: str, source: str, version: str, sha256: str) -> bool:
    """As `put_bytes`, copied within one store without sending the bytes.

    Args:
        target: as of `put_bytes`.
        source: the object to copy.
        version: of the source.
        sha256: of the source's bytes, hex.

    Returns:
        Whether the object exists now; False if the bytes must be sent.

    Raises:
        ProcessingFailure: the object exists with other bytes.
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
            LOG.info("server-side copy failed: %s", type(error).__name__)
            return False
        return True

    return _put(copy)


def put_copy(target: str, source: str, sha256: str, *, scratch: str) -> bool:
    """As `put_bytes`, from an object of any size and known sha256, which is read again.

    Raises:
        ProcessingFailure: also if the source cannot be read or has another sha256.
    """
    with unnamed_file() as copy:
        try:
            storage_of(source).copy_to(source, None, copy)
        except OSError as error:
            raise read_failure(error, Stage.PLACE) from error
        copy.seek(0)
        if hashlib.file_digest(copy, "sha256").hexdigest() != sha256:
            raise ProcessingFailure(Stage.PLACE, Reason.CHANGED)
        copy.seek(0)
        return put_file(target, copy, sha256, scratch=scratch)


def put_link(target: str, source: str, version: str, sha256: str, *, scratch: str) -> bool:
    """As `put_copy`, by a hard link to this version of a local source on the same file system."""

    def link() -> bool:
        try:
            return LocalStorage().put_link(target, source, version, sha256, scratch)
        except FileNotFoundError as error:
            raise read_failure(error, Stage.PLACE) from error

    return _put(link)


def read_bytes(uri: str) -> bytes:
    """Return the bytes of an object of the lake.

    Raises:
        OSError: it cannot be read.
    """
    return read_whole(storage_of(uri), uri)


def list_files(folder: str, suffix: str = "") -> list[ObjectInfo]:
    """Return the lake's files below a folder, as `iter_files`."""
    return [found for found in iter_files(folder) if found.uri.endswith(suffix)]


def iter_files(folder: str) -> Iterator[ObjectInfo]:
    """Yield the lake's files below a folder, ordered by name; none if the folder is missing.

    Hidden and foreign files are left out: see `layout.is_lake_name`, applied below the folder.

    Raises:
        OSError: a folder cannot be listed.
    """
    for found in storage_of(folder).list_below(folder):
        if is_lake_name(_relative(found.uri, folder)):
            yield found


def exists(uri: str) -> bool:
    """Return whether an object exists.

    Raises:
        OSError: the storage refuses to answer.
    """
    return storage_of(uri).stat(uri) is not None


def _relative(uri: str, folder: str) -> str:
    if is_below(uri, folder):
        return uri[len(folder.rstrip("/")) + 1 :]
    return str(uri_to_path(uri).relative_to(uri_to_path(folder)))  # a name that is not Unicode


def _put(put: Callable[[], bool]) -> bool:
    try:
        return put()
    except OSError as error:
        raise write_failure(error, Stage.PLACE) from error
