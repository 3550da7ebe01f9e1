"""Reads a buffer as a file without copying it whole, as `io.BytesIO` would."""

from __future__ import annotations

from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from typing import Any, Final

READ_AHEAD_BYTES: Final = 8192


class _Raw(RawIOBase):
    name = ""  # pydicom asks every buffered reader for one

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        block = self._view[self._at : self._at + len(target)]
        target[: len(block)] = block
        self._at += len(block)
        return len(block)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        base = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: len(self._view)}[whence]
        if base + offset < 0:
            raise ValueError("before the start")
        self._at = base + offset
        return self._at


def buffer_stream(view: memoryview) -> BufferedReader:
    """Return a buffer of bytes as a file, at its start."""
    return BufferedReader(_Raw(view), READ_AHEAD_BYTES)
