"""Read, write and list the files of a lake. Writes are atomic and never overwrite."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, cast

from transforms.core.json_data import MAX_JSON_BYTES, parse_json
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.shared_bytes import SharedBytes
from transforms.core.storage_failures import FULL_DISK, read_failure, write_failure
from transforms.lake.layout import REGION_PREFIX, SCRATCH, Layout, is_lake_name
from transforms.storage.archive_names import is_member
from transforms.storage.base import (
    UNKNOWN_SIZE,
    HashingSink,
    ObjectChanged,
    ObjectInfo,
    SupportsServerSideCopy,
    read_whole,
)
from transforms.storage.folders import sync_folder
from transforms.storage.local import LocalStorage, uri_to_path
from transforms.storage.permissions import FILE_MODE
from transforms.storage.schemes import (
    archives,
    is_below,
    is_local,
    join,
    object_store,
    scheme_of,
    storage_of,
)
from transforms.storage.seekable import open_sequential
from transforms.storage.temporary import remove_abandoned, temporary_name, unnamed_file
from transforms.storage.verifying_reader import VerifyingReader

LOG = logging.getLogger(__name__)
UPLOAD_BUFFER_BYTES: Final = 8 << 20
"""Bytes of one request to the store that an object is read from, while it is sent to another."""
_OBJECT_FOLDERS: Final = ("study=", "series=", REGION_PREFIX)
"""Begin the names of folders that are removed once they are empty."""


def put_bytes(target: str, data: bytes, *, scratch: str, file_mode: int = FILE_MODE) -> bool:
    """Write an object if it is absent.

    Args:
        target: path or URI; missing folders are created.
        data: content of the object.
        scratch: folder on the same file system for the partial file.
        file_mode: permissions of a local file; see `storage.permissions`.

    Returns:
        True if the object is new, False if it exists with the same content.

    Raises:
        ProcessingFailure: the object exists with other content, or the storage refused the write.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    return put_file(target, io.BytesIO(data), sha256, scratch=scratch, file_mode=file_mode)


def put_if_absent(target: str, data: bytes, *, scratch: str, file_mode: int = FILE_MODE) -> None:
    """As `put_bytes`, but ignore an existing object with other content, such as other timestamps."""
    with contextlib.suppress(OSError):  # if the storage does not respond, the write reports it
        if exists(target):
            return
    put_bytes(target, data, scratch=scratch, file_mode=file_mode)


def replace_file(target: str, data: bytes, *, scratch: str, file_mode: int = FILE_MODE) -> None:
    """Replace an existing file by other bytes, atomically; the caller holds the lake's locks.

    Objects, and files of the index, are never replaced.

    Raises:
        ProcessingFailure: the storage refused the write.
        FileNotFoundError: there is no such file.
    """
    if is_local(target):
        partial = join(scratch, temporary_name())
        put_bytes(partial, data, scratch=scratch, file_mode=file_mode)
        try:
            uri_to_path(partial).replace(uri_to_path(target))
            sync_folder(uri_to_path(target).parent)
        except OSError as error:
            raise write_failure(error, Stage.PLACE) from error
        return
    found = storage_of(target).stat(target)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such object")
    try:
        object_store(scheme_of(target)).compare_and_swap(target, data, found.version)
    except OSError as error:
        raise write_failure(error, Stage.PLACE) from error


def put_file(
    target: str, source: BinaryIO, sha256: str, *, scratch: str, file_mode: int = FILE_MODE
) -> bool:
    """As `put_bytes`, from a seekable file of known sha256 (hex)."""
    return _put(lambda: storage_of(target).put(target, source, sha256, scratch, file_mode))


def copy_server_side(target: str, source: str, version: str, sha256: str) -> bool:
    """Copy an object within a store, without sending its bytes through this process.

    Args:
        target: URI of the copy.
        source: URI of the object to copy.
        version: version of the source.
        sha256: sha256 of the source's content, hex.

    Returns:
        True if the copy exists now, False if the store does not support this.

    Raises:
        ProcessingFailure: the target exists with other content.
    """
    if scheme_of(target) != scheme_of(source) or is_member(source):
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


def put_copy(
    target: str,
    source: str,
    sha256: str,
    *,
    scratch: str,
    file_mode: int = FILE_MODE,
    version: str | None = None,
    size: int | None = None,
) -> bool:
    """As `put_bytes`, from a source object of any size, which is read for this.

    The object is streamed, to a file on the target's disk or to a store, and its sha256 compared before
    it has its name. A member of an archive that goes to a store is read twice.

    Args:
        target: as for `put_bytes`.
        source: path or URI.
        sha256: of its content, hex.
        scratch: as for `put_bytes`.
        file_mode: as for `put_file`.
        version: of the source, needed for members of archives, which may have equal names; else any.
        size: of its content, if it is known; saves a request.

    Raises:
        ProcessingFailure: as `put_bytes`, or the source cannot be read or has another sha256.
    """
    if not is_local(target):
        return _upload(target, source, sha256, scratch, version, size)
    with _file_for(scratch) as copy:
        try:
            storage_of(source).copy_to(source, version if is_member(source) else None, copy)
            copy.seek(0)
            found = hashlib.file_digest(copy, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            is_full = error.errno in FULL_DISK
            raise (write_failure if is_full else read_failure)(error, Stage.PLACE) from error
        if found != sha256:
            raise ProcessingFailure(Stage.PLACE, Reason.CHANGED)
        copy.seek(0)
        return put_file(target, copy, sha256, scratch=scratch, file_mode=file_mode)


@contextlib.contextmanager
def _file_for(scratch: str) -> Iterator[BinaryIO]:
    """Open an unnamed file that can be linked to a local target if its file system supports this."""
    folder = str(uri_to_path(scratch))
    with SharedBytes(folder) as data:
        if not data.in_memory:
            yield data.file
            return
    with unnamed_file(folder) as file:
        yield file


def _upload(
    target: str, source: str, sha256: str, scratch: str, version: str | None, size: int | None
) -> bool:
    """Stream a source to a store."""
    try:
        file, size = _open_source(source, sha256, version, size)
    except OSError as error:
        raise read_failure(error, Stage.PLACE) from error
    with file:
        reader = VerifyingReader(file, sha256, size)
        stream = cast(BinaryIO, io.BufferedReader(reader, UPLOAD_BUFFER_BYTES))
        try:
            return put_file(target, stream, sha256, scratch=scratch)
        except ProcessingFailure as error:
            if reader.error is None:
                raise
            raise read_failure(reader.error, Stage.PLACE) from error


def _open_source(
    source: str, sha256: str, version: str | None, size: int | None
) -> tuple[BinaryIO, int | None]:
    """Open a source for reading from its start to its end; return it and its size, or None.

    Raises:
        OSError: it cannot be read.
    """
    if is_local(source) and not is_member(source):
        return LocalStorage().open_version(source, None), None
    storage = storage_of(source)
    if version is None or size is None:
        stat = storage.stat(source)
        if stat is None:
            raise FileNotFoundError(errno.ENOENT, "no such object")
        version, size = stat.version, stat.size
    if is_member(source):
        sink = HashingSink()
        problem = archives().copy_member(source, version, cast(BinaryIO, sink))
        if sink.hexdigest() != sha256:
            raise ObjectChanged(errno.ESTALE, "the member has another content")
        found = ObjectInfo(source, version, sink.size)
        return open_sequential(found, stored=bool(problem)), sink.size
    if size == UNKNOWN_SIZE:
        sink = HashingSink()
        storage.copy_to(source, version, cast(BinaryIO, sink))
        size = sink.size
    return open_sequential(ObjectInfo(source, version, size)), size


def put_link(
    target: str,
    source: str,
    version: str,
    sha256: str,
    *,
    scratch: str,
    file_mode: int = FILE_MODE,
) -> bool:
    """As `put_copy`, but hard-link this version of a local source on the same file system."""

    def link() -> bool:
        try:
            return LocalStorage().put_link(target, source, version, sha256, scratch, file_mode)
        except FileNotFoundError as error:
            raise read_failure(error, Stage.PLACE) from error

    return _put(link)


def read_bytes(uri: str) -> bytes:
    """Return the bytes of an object of the lake.

    Raises:
        OSError: the object cannot be read.
    """
    return read_whole(storage_of(uri), uri)


def read_json(uri: str) -> Any:
    """Return the value in a JSON file of the lake.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is too large, not JSON or nested too deep.
    """
    try:
        return parse_json(read_whole(storage_of(uri), uri, MAX_JSON_BYTES))
    except ValueError as error:
        raise ValueError(f"{uri} is not valid JSON ({error}); restore it from a backup") from error
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise ValueError(f"{uri} is {error.strerror}; restore it from a backup") from error


def list_files(folder: str, suffix: str = "") -> list[ObjectInfo]:
    """Return the files below a folder whose names have a suffix; see `iter_files`."""
    return [found for found in iter_files(folder) if found.uri.endswith(suffix)]


def iter_files(folder: str) -> Iterator[ObjectInfo]:
    """Yield the files below a folder, sorted by name; none if the folder does not exist.

    Hidden and foreign files are omitted; see `layout.is_lake_name`.

    Raises:
        OSError: a folder cannot be listed.
    """
    for found in storage_of(folder).list_below(folder):
        if is_lake_name(_relative(found.uri, folder)):
            yield found


def exists(uri: str) -> bool:
    """Return whether an object exists.

    Raises:
        OSError: the storage does not respond.
    """
    return storage_of(uri).stat(uri) is not None


def remove_all(uris: Iterable[str]) -> None:
    """Remove objects, of which none reappears after a power loss.

    Raises:
        OSError: an object cannot be removed.
    """
    removed = []
    for uri in uris:
        storage_of(uri).remove(uri)
        removed.append(uri)
    LocalStorage().sync_removals(filter(is_local, removed))


def remove_objects(uris: Iterable[str]) -> None:
    """Remove objects, and local folders that are empty then, some of which are named by UIDs. Idempotent.

    Raises:
        OSError: an object cannot be removed.
    """
    listed = list(uris)
    remove_all(listed)
    for uri in filter(is_local, listed):  # also of those that were removed before a kill
        for folder in itertools.takewhile(
            lambda path: path.name.startswith(_OBJECT_FOLDERS), uri_to_path(uri).parents
        ):
            with contextlib.suppress(OSError):  # not empty, or removed before
                folder.rmdir()


def remove_partial_files(layout: Layout) -> None:
    """Remove what dead processes of this host have left in the roots of a lake and in `$TMPDIR`."""
    remove_abandoned(tempfile.gettempdir())
    for root in filter(is_local, layout.object_roots):
        remove_abandoned(uri_to_path(join(root, SCRATCH)))


def _relative(uri: str, folder: str) -> str:
    if is_below(uri, folder):
        return uri[len(folder.rstrip("/")) + 1 :]
    return str(uri_to_path(uri).relative_to(uri_to_path(folder)))  # the name is not Unicode


def _put(put: Callable[[], bool]) -> bool:
    try:
        return put()
    except OSError as error:
        raise write_failure(error, Stage.PLACE) from error
