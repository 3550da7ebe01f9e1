"""Reads a buffer as a file without copying it whole, as `io.BytesIO` would."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET


class BufferStream:
    """A buffer of bytes as a file to read; a read past its end gives what there is.

    `io.BufferedReader` would first set aside as many bytes as are asked for, and a malformed object
    asks for four gigabytes.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, up to `size` of them; all where it is negative."""
        end = len(self._view) if size < 0 else self._at + size
        block = bytes(self._view[self._at : end])
        self._at += len(block)
        return block

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to a position, also past the end.

        Raises:
            ValueError: it is before the start.
        """
        base = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: len(self._view)}[whence]
        if base + offset < 0:
            raise ValueError("before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def close(self) -> None:
        """Do nothing: the buffer is the caller's."""
