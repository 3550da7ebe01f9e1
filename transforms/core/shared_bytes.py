"""Hold the content of an object in a file that other processes can map without reading or copying it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transforms.storage.base import BLOCK_BYTES
from transforms.storage.deadline import Progress, call_with_deadline
from transforms.storage.folders import make_folders
from transforms.storage.permissions import PRIVATE_FOLDER_MODE, PRIVATE_MODE


class SharedBytes:
    """Bytes in an unnamed file, which disappears when its last descriptor is closed.

    Args:
        folder: folder on the disk where the bytes will probably be stored, created if missing. An unnamed
            file there can be linked to a name without a copy (O_TMPFILE, open(2)). If it is None or does
            not support this, the bytes are in memory (memfd_create(2)).

    Attributes:
        file: the file; processes that map its descriptor do not change its position.
        in_memory: whether the bytes are in memory rather than on a disk.
        is_source: whether the file is a source object, which others may serve slowly or change.
    """

    is_source = False
    _content_sha256: str | None = None

    def __init__(self, folder: str | None = None) -> None:
        descriptor = None if folder is None else _unnamed_file(folder)
        self.in_memory = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("object", os.MFD_CLOEXEC)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=0)

    @classmethod
    def from_file(cls, file: BinaryIO) -> SharedBytes:
        """Return the bytes of an open file without a copy; writing to the file changes them."""
        data = cls.__new__(cls)
        data.file, data.in_memory, data.is_source = file, False, True
        return data

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return os.fstat(self.file.fileno()).st_size

    def fill(self, content: bytes) -> None:
        """Write all bytes at once, and hash them while they are at hand. Nothing is written later."""
        self.write_at(0, content)
        self._content_sha256 = hashlib.sha256(content).hexdigest()

    def write_at(self, position: int, content: bytes) -> None:
        """Write bytes at a position; other threads may write elsewhere at the same time."""
        view, descriptor = memoryview(content), self.file.fileno()
        while view:
            written = os.pwrite(descriptor, view, position)
            view, position = view[written:], position + written

    def sha256(self) -> str:
        """Return the sha256 of the bytes, hex.

        Raises:
            TimeoutError: the storage of a source object does not answer.
        """
        if self._content_sha256 is not None:
            return self._content_sha256
        if self.is_source:
            return call_with_deadline(self._sha256)
        return self._sha256(Progress())

    def _sha256(self, progress: Progress) -> str:
        file, digest = self.rewind(), hashlib.sha256()
        buffer = bytearray(BLOCK_BYTES)
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:count])
            progress.advance()
        return digest.hexdigest()

    def rewind(self) -> BinaryIO:
        """Return the file, positioned at its start."""
        self.file.seek(0)
        return self.file

    @contextlib.contextmanager
    def read_only(self) -> Iterator[int]:
        """Yield a descriptor of the file for another process, which cannot write through it."""
        descriptor = self.file.fileno()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            yield descriptor
            return
        opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield opened
        finally:
            os.close(opened)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _unnamed_file(folder: str) -> int | None:
    try:
        make_folders(Path(folder), PRIVATE_FOLDER_MODE)
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, PRIVATE_MODE)
    except OSError:  # unsupported; other errors of the folder are reported when it is used
        return None


def can_be_mapped(file: BinaryIO) -> bool:
    """Return whether a file can be mapped; some network file systems do not support this."""
    try:
        map_bytes(file.fileno()).release()
    except (OSError, MemoryError):
        return False
    return True


def map_bytes(descriptor: int) -> memoryview:
    """Return a view of a file's bytes without a copy; it is unmapped with its last reference.

    Raises:
        MemoryError: the file exceeds the address space limit of this process.
    """
    if os.fstat(descriptor).st_size == 0:  # mmap(2) refuses an empty file
        return memoryview(b"")
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise
