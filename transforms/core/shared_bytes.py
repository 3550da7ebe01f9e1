"""An object's bytes where another process can map them: read once, copied to nobody."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class SharedBytes:
    """Bytes in a file without a name, gone when the last holder closes it; or, by `of`, in any file.

    Args:
        folder: where the bytes will probably be put, made if need be: the file is on its disk and may
            be given a name there, so that nothing is copied again (O_TMPFILE, open(2)). None, or
            one that cannot have such files: in memory (memfd_create(2)).

    Attributes:
        file: to write them into and to read them from; other holders of the descriptor that map it
            instead do not disturb its position.
        in_memory: whether they take up memory rather than a disk.
    """

    def __init__(self, folder: str | None = None) -> None:
        descriptor = None if folder is None else _unnamed_file(folder)
        self.in_memory = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("object", os.MFD_CLOEXEC)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=0)

    @classmethod
    def of(cls, file: BinaryIO) -> SharedBytes:
        """Return the bytes of a file that stands somewhere, not copied: they are as stable as it is."""
        data = cls.__new__(cls)
        data.file, data.in_memory = file, False
        return data

    def __enter__(self) -> SharedBytes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return os.fstat(self.file.fileno()).st_size

    def sha256(self) -> str:
        """Return the hex sha256 of the bytes."""
        return hashlib.file_digest(self.from_start(), "sha256").hexdigest()  # type: ignore[arg-type]

    def from_start(self) -> BinaryIO:
        """Return the file, at its start."""
        self.file.seek(0)
        return self.file

    def close(self) -> None:
        """Give the bytes up."""
        self.file.close()


def _unnamed_file(folder: str) -> int | None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:  # another kind of file system, or a folder that will say so when it is used
        return None


def can_be_mapped(file: BinaryIO) -> bool:
    """Whether a file's bytes can be mapped; some network file systems refuse it."""
    try:
        mapped(file.fileno()).release()
    except (OSError, MemoryError):
        return False
    return True


def mapped(descriptor: int) -> memoryview:
    """Return the bytes behind a descriptor, not copied; unmapped with the last view of them.

    Raises:
        MemoryError: they do not fit into what this process may use.
    """
    if os.fstat(descriptor).st_size == 0:  # mmap(2) refuses it
        return memoryview(b"")
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise
