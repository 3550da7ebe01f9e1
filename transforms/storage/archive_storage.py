"""The members of archives as the objects of a storage that cannot be written."""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, cast

from transforms.storage.archive_names import archive_of, member_uri
from transforms.storage.archives import (
    DAMAGE,
    Archive,
    DamagedArchive,
    InflationLimits,
    Member,
    close_quietly,
    copy_member,
    member_info,
    open_archive,
    select_members,
)
from transforms.storage.base import BLOCK_BYTES, ObjectChanged, ObjectInfo, Storage
from transforms.storage.deadline import Progress, call_with_deadline
from transforms.storage.local import LocalStorage, without_state
from transforms.storage.selection import ALL, Selection, Skipped

MAX_OPEN: Final = 8
"""Maximum number of archives that a process holds open."""
DAMAGED_MEMBER: Final = "damaged_member"
"""Problem of a member whose content cannot be read, or has another checksum."""


class NotAnArchive(ValueError):
    """An object is not the archive that its name says, or a damaged one."""


class _RecordingFile:
    """A file that keeps its last error: readers of archives replace errors of reading by their own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.progress = Progress()

    def read(self, size: int = -1) -> bytes:
        self.progress.advance()
        try:
            return self._file.read(size)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@dataclass
class _OpenArchive:
    """An archive that is open, used by one thread at a time."""

    file: _RecordingFile
    archive: Archive
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class ArchiveStorage:
    """Members of archives, local or in stores. Thread-safe."""

    def __init__(
        self,
        storage_of: Callable[[str], Storage],
        open_seekable: Callable[[ObjectInfo], BinaryIO],
    ) -> None:
        """Start with no archive open.

        Args:
            storage_of: returns the storage of an archive.
            open_seekable: opens one version of an archive.
        """
        self._storage_of, self._open_seekable = storage_of, open_seekable
        self._open: OrderedDict[tuple[str, str, str | None], _OpenArchive] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the archives that are not in use."""
        with self._lock:
            self._close_idle(0)

    def members(
        self, found: ObjectInfo, limits: InflationLimits, selection: Selection
    ) -> Iterator[ObjectInfo | Skipped]:
        """Yield the members of an archive, and skipped names.

        Raises:
            NotAnArchive: it, or the rest of it, cannot be read.
            OSError: reading it failed.
        """
        try:
            with self._borrow(found.uri, found.version) as archive:
                for member in select_members(archive, limits, selection):
                    if isinstance(member, Member):
                        yield member_info(found, member, member_uri(found.uri, member.name))
                    else:
                        yield member
        except DAMAGE as error:
            raise NotAnArchive(type(error).__name__) from error

    def stat(self, uri: str) -> ObjectInfo | None:
        archive = archive_of(uri)
        found = self._storage_of(archive).stat(archive) if archive else None
        if found is None:
            return None
        try:
            for one in self.members(found, InflationLimits(), ALL):
                if isinstance(one, ObjectInfo) and one.uri == uri:
                    return one
        except NotAnArchive:
            return None
        return None

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        return iter(())

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        found = self.stat(pattern)
        return iter([] if found is None else [found])

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """As `Storage.copy_to`; see `copy_member`."""
        if version is None:
            found = self.stat(uri)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such member", uri)
            version = found.version
        self.copy_member(uri, version, sink)

    def copy_member(self, uri: str, version: str, sink: BinaryIO) -> str:
        """Copy the content of a member; its stored bytes if it has a problem or is damaged.

        Args:
            uri: URI of the member.
            version: its version.
            sink: an empty file, which is emptied again for the stored bytes, or a `HashingSink`.

        Returns:
            The problem, or "".

        Raises:
            ObjectChanged, FileNotFoundError: as `Storage.copy_to`.
            TimeoutError: the storage does not answer.
        """
        return call_with_deadline(lambda progress: self._copy(uri, version, sink, progress))

    def blocks(self, uri: str, version: str, *, stored: bool) -> Iterator[bytes]:
        """Yield the bytes of a member. Other threads can use the archive between two blocks.

        Args:
            uri: URI of the member.
            version: its version.
            stored: whether to yield its stored bytes instead of its content.

        Raises:
            ObjectChanged, FileNotFoundError, TimeoutError: as `copy_member`, or it is damaged.
        """
        archive_uri, archive_version, offset, _ = _parse(uri, version)
        position = 0
        of: Archive | None = None  # the archive, which may be closed and opened again
        content: BinaryIO | None = None

        def read(progress: Progress) -> bytes:
            nonlocal of, content
            with self._borrow(archive_uri, archive_version, progress) as archive:
                if content is None or archive is not of:
                    of, (content, _) = archive, archive.open(offset, stored=stored)
                    content.seek(position)
                return content.read(BLOCK_BYTES)

        while True:
            try:
                block = call_with_deadline(read)
            except DAMAGE as error:
                raise ObjectChanged(errno.ESTALE, type(error).__name__, uri) from error
            if not block:
                return
            position += len(block)
            yield block

    def _copy(self, uri: str, version: str, sink: BinaryIO, progress: Progress) -> str:
        archive_uri, archive_version, offset, problem = _parse(uri, version)
        try:
            with self._borrow(archive_uri, archive_version, progress) as archive:
                if not problem:
                    try:
                        copy_member(archive, offset, sink, stored=False)
                    except (*DAMAGE, OSError) as error:
                        if isinstance(error, OSError) and not _is_of_decompressor(error):
                            raise
                        problem = DAMAGED_MEMBER
                        _empty(sink)
                if problem:
                    copy_member(archive, offset, sink, stored=True)
        except DAMAGE as error:
            raise ObjectChanged(errno.ESTALE, type(error).__name__, uri) from error
        return problem

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        raise OSError(errno.ENOTSUP, "no ranges of members", uri)

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = 0
    ) -> bool:
        raise OSError(errno.EROFS, "archives are not written", uri)

    def remove(self, uri: str) -> None:
        raise OSError(errno.EROFS, "archives are not written", uri)

    @contextmanager
    def _borrow(
        self, uri: str, version: str, progress: Progress | None = None
    ) -> Iterator[Archive]:
        """Use an archive alone; it stays open for the next member.

        Raises:
            ObjectChanged: the archive has another version, before or after its use.
        """
        storage: Storage = self._storage_of(uri)
        is_local = isinstance(storage, LocalStorage)  # stores check each request
        state = _require_version(storage, uri, version).state if is_local else None
        with self._lock:
            opened = self._open.pop((uri, version, state), None)
            if opened is None:
                opened = self._new(storage, uri, version)
            self._open[uri, version, state] = opened
            opened.users += 1
            self._close_idle()
        try:
            with opened.lock, _errors_of(opened.file):
                opened.file.progress = progress or Progress()
                yield opened.archive
                if is_local:
                    _require_version(storage, uri, version)
        finally:
            with self._lock:
                opened.users -= 1

    def _new(self, storage: Storage, uri: str, version: str) -> _OpenArchive:
        found = _require_version(storage, uri, version)
        file = _RecordingFile(self._open_seekable(found))
        try:
            with _errors_of(file):
                return _OpenArchive(file, open_archive(uri, cast(BinaryIO, file), found.size))
        except BaseException:
            close_quietly(file)
            raise

    def _close_idle(self, kept: int = MAX_OPEN) -> None:
        for key in list(self._open)[: max(0, len(self._open) - kept)]:
            opened = self._open[key]
            if not opened.users:
                del self._open[key]
                close_quietly(opened.file)


def _parse(uri: str, version: str) -> tuple[str, str, int, str]:
    """Return URI and version of the archive of a member, the offset of the member and its problem.

    Raises:
        ObjectChanged: it is not the version of a member.
    """
    archive = archive_of(uri)
    archive_version, _, position = version.partition("!")
    offset, _, problem = without_state(position).partition("!")
    if archive is None or not offset.isdigit():
        raise ObjectChanged(errno.ESTALE, "not the version of a member", uri)
    return archive, archive_version, int(offset), problem


def _require_version(storage: Storage, uri: str, version: str) -> ObjectInfo:
    found = call_with_deadline(lambda progress: storage.stat(uri))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such archive", uri)
    if found.version != version:
        raise ObjectChanged(errno.ESTALE, "the archive has another version", uri)
    return found


@contextmanager
def _errors_of(file: _RecordingFile) -> Iterator[None]:
    """Raise what went wrong with a file rather than what a reader of archives made of it.

    Raises:
        OSError: the file cannot be read.
        one of `DAMAGE`: its content is no archive.
    """
    file.error = None
    try:
        yield
    except OSError as error:
        if file.error is not None:
            raise file.error from error
        if _is_of_decompressor(error):
            raise DamagedArchive(type(error).__name__) from error
        raise
    except DAMAGE as error:
        if file.error is not None:
            raise file.error from error
        raise


def _is_of_decompressor(error: OSError) -> bool:
    """Return whether a decompressor found damage; errors of a storage have a code."""
    return error.errno is None and not isinstance(error, ObjectChanged)


def _empty(sink: BinaryIO) -> None:
    reset = getattr(sink, "reset", None)
    if reset is not None:
        reset()
    else:
        sink.seek(0)
        sink.truncate()
