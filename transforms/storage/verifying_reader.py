"""Read a file for an upload, and fail before its end if its bytes are not the expected ones."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from typing import BinaryIO

from transforms.storage.base import ObjectChanged


class VerifyingReader(io.RawIOBase):
    """A seekable view of a file that compares its sha256 as the last byte is read.

    Clients read from the start, once or again for a retry or a checksum of their own. A retry of a part
    that was read does not change the comparison.

    Args:
        file: File, read from its start.
        sha256: Expected, hex.
        size: Expected number of bytes; None for that of the file, which then has a descriptor.

    Attributes:
        error: Why the file could not be read, `ObjectChanged` if its bytes were other ones; clients may
            hide an error of what they read.
    """

    def __init__(self, file: BinaryIO, sha256: str, size: int | None = None) -> None:
        self._file, self._expected = file, sha256
        self._size = os.fstat(file.fileno()).st_size if size is None else size
        self._sha256, self._hashed = hashlib.sha256(), 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the buffer.

        Raises:
            ObjectChanged: The file ends, or would end, with another sha256 or size.
            OSError: The file cannot be read.
        """
        try:
            return self._read(buffer)
        except OSError as error:
            self.error = error
            raise

    def _read(self, buffer: memoryview) -> int:
        position = self._file.tell()
        if position == 0:
            self._sha256, self._hashed = hashlib.sha256(), 0
        count = self._file.readinto(buffer) or 0  # type: ignore[attr-defined]
        if position <= self._hashed < position + count:
            self._sha256.update(buffer[self._hashed - position : count])
            self._hashed = position + count
        is_end = self._hashed >= self._size or (len(buffer) > 0 and not count)
        if is_end and (self._hashed != self._size or self._sha256.hexdigest() != self._expected):
            raise ObjectChanged(errno.ESTALE, "the source changed")
        return count
