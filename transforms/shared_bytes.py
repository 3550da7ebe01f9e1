"""An object's bytes in memory that another process can map: read once, copied to nobody."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from types import TracebackType
from typing import BinaryIO


class SharedBytes:
    """Bytes in an anonymous file (memfd_create(2)); gone when the last holder closes it.

    Attributes:
        file: to write them into and to read them from; other holders of the descriptor that map it
            instead do not disturb its position.
    """

    def __init__(self) -> None:
        descriptor = os.memfd_create("object", os.MFD_CLOEXEC)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=0)

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
        return hashlib.sha256(mapped(self.file.fileno())).hexdigest()

    def from_start(self) -> BinaryIO:
        """Return the file, at its start."""
        self.file.seek(0)
        return self.file

    def close(self) -> None:
        """Give the bytes up."""
        self.file.close()


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
