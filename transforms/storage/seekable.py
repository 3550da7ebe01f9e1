"""Open one version of an object as a seekable file.

Local files are read with a deadline, and objects in stores by range requests. Members of archives and
instances of DICOMweb servers are read in order: seeking back starts again.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, cast

from transforms.storage.archive_names import is_member
from transforms.storage.base import ObjectInfo, Storage
from transforms.storage.deadline import call_with_deadline
from transforms.storage.local import LocalStorage
from transforms.storage.schemes import DICOMWEB, archives, dicomweb, is_local, scheme_of, storage_of

BUFFER_BYTES: Final = 1 << 20
"""Bytes of one range request, unless the reader asks for more."""


def open_seekable(found: ObjectInfo) -> BinaryIO:
    """Open one version of an object for reading; the caller closes it.

    Raises:
        ObjectChanged: the object has another version; also from reading, in a store.
        OSError: it cannot be read.
    """
    if is_local(found.uri):
        local = DeadlineFile(LocalStorage().open_version(found.uri, found.version), found.size)
        return cast(BinaryIO, io.BufferedReader(local, BUFFER_BYTES))
    return cast(BinaryIO, io.BufferedReader(RangeFile(found, storage_of(found.uri)), BUFFER_BYTES))


def open_sequential(found: ObjectInfo, *, stored: bool = False) -> BinaryIO:
    """As `open_seekable`, for reading in order from the start, once or a few times.

    Args:
        found: version of an object, a member of an archive or an instance of a DICOMweb server, with its
            size.
        stored: as for `ArchiveStorage.blocks`, for a member.
    """
    uri, version = found.uri, found.version
    if is_member(uri):
        raw = SequentialFile(found.size, lambda: archives().blocks(uri, version, stored=stored))
    elif scheme_of(uri) in DICOMWEB:
        raw = SequentialFile(found.size, lambda: dicomweb().blocks(uri, version))
    else:
        return open_seekable(found)
    return cast(BinaryIO, io.BufferedReader(raw, BUFFER_BYTES))


class _PositionedFile(io.RawIOBase):
    """A file of known size that is read at its position only when it is read.

    Attributes:
        name: "", which pydicom expects, since names of objects may name patients.
    """

    name = ""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "negative position")  # which zipfile expects
        self._position = base + offset
        return self._position


class DeadlineFile(_PositionedFile):
    """A local file whose reads fail once its file system does not answer."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Take over an open file.

        Args:
            file: the file.
            size: its size in bytes.
        """
        super().__init__(size)
        with file:
            self._descriptor = os.dup(file.fileno())
        self._timed_out: TimeoutError | None = None

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        if self._timed_out is not None:
            raise self._timed_out
        descriptor, length, position = self._descriptor, len(view), self._position
        try:
            data = call_with_deadline(
                lambda progress: os.pread(descriptor, length, position),
                dispose=lambda late: os.close(descriptor),
            )
        except TimeoutError as error:
            self._timed_out = error
            raise
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file, unless a read of its descriptor still blocks, which closes it later."""
        if not self.closed and self._timed_out is None:
            os.close(self._descriptor)
        super().close()


class RangeFile(_PositionedFile):
    """An object in a store as a file; each read is one range request for the same version."""

    def __init__(self, found: ObjectInfo, storage: Storage) -> None:
        super().__init__(found.size)
        self._found, self._storage = found, storage

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        length = min(len(view), self._found.size - self._position)
        if length <= 0:
            return 0
        found = self._found
        data = self._storage.read_range(found.uri, found.version, self._position, length)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class SequentialFile(_PositionedFile):
    """Blocks of bytes as a file, of which one is in memory."""

    def __init__(self, size: int, blocks: Callable[[], Iterator[bytes]]) -> None:
        """Open nothing yet.

        Args:
            size: number of bytes.
            blocks: returns the blocks, from the first on.
        """
        super().__init__(size)
        self._open_blocks = blocks
        self._blocks: Iterator[bytes] = iter(())
        self._block, self._start = b"", -1

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        if self._start < 0 or self._position < self._start:
            self._blocks, self._block, self._start = self._open_blocks(), b"", 0
        while self._position >= self._start + len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block, self._start = block, self._start + len(self._block)
        at = self._position - self._start
        data = self._block[at : at + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
