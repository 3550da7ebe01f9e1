"""A read-only file object over a buffer, which `io.BytesIO` would copy."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import BinaryIO, cast


class BufferStream:
    """A read-only, seekable file object over a buffer; reads past the end are short.

    `io.BufferedReader` allocates the requested size up front, and a malformed length field can request
    four gigabytes.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, or all that remain if `size` is negative."""
        end = len(self._view) if size < 0 else self._position + size
        block = bytes(self._view[self._position : end])
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a position, which may lie past the end, and return it.

        Raises:
            ValueError: The position is negative.
        """
        base = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: len(self._view)}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def close(self) -> None:
        """Do nothing; the caller owns the buffer."""


def open_buffer(view: memoryview) -> BinaryIO:
    """Return a read-only file of the bytes in a buffer, for libraries that declare `BinaryIO`."""
    return cast(BinaryIO, BufferStream(view))
