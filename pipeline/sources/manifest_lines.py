"""Read the lines and CSV records of manifests, whatever their encoding; a bad one hides no other."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

MAX_LINE_BYTES: Final = 1 << 17
"""Maximum length of a line, and of a CSV record, which is also the limit of Python's csv module."""
MAX_RECORD_LINES: Final = 16
"""Maximum number of lines of a CSV record with line breaks in its quotes."""
SNIFFED_BYTES: Final = 4096
GZIP_MAGIC: Final = b"\x1f\x8b"
UTF_8: Final = "utf-8"
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Encodings by byte order mark; that of UTF-32 starts with that of UTF-16."""
_READ_BYTES: Final = 1 << 16


class BadLine(ValueError):
    """A line or record cannot be read; the message has no part of it."""


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return a file, decompressed if it is a gzip file."""
    is_gzip = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text by its byte order mark, or by its zero bytes."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if len(head) >= 4 and not any(head[1:64:2]) and all(head[0:64:2]):
        return "utf-16-le"
    if len(head) >= 4 and not any(head[0:64:2]) and all(head[1:64:2]):
        return "utf-16-be"
    return UTF_8


def lines_of(
    file: BinaryIO, encoding: str = UTF_8, limit: int | None = None
) -> Iterator[bytes | None]:
    """Yield the lines of a file in UTF-8, with their ends; None for one that is too long.

    Args:
        file: positioned at the start of a line.
        encoding: of the file.
        limit: number of bytes after which no line starts; None: all.
    """
    if encoding != UTF_8:
        file = cast(BinaryIO, io.BufferedReader(_Transcoder(file, encoding), _READ_BYTES))
    position, first = 0, True
    while limit is None or position < limit:
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        position += len(line)
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
                position += len(line)
            yield None
        else:
            yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def records_of(
    lines: Iterator[bytes | None], delimiter: str, first_line: int
) -> Iterator[tuple[int, list[bytes] | BadLine]]:
    """Yield the CSV records in lines, each with the number of its first line; blank lines have none.

    A quote that is never closed spoils its own line only: the lines after it are read again.

    Args:
        lines: from `lines_of`.
        delimiter: between fields.
        first_line: number of the first line.
    """
    again: list[tuple[int, bytes | None]] = []
    numbered = enumerate(lines, first_line)
    while True:
        number, line = again.pop(0) if again else next(numbered, (0, b""))
        if number == 0:
            return
        if line is None:
            yield number, BadLine(f"it has more than {MAX_LINE_BYTES} bytes")
            continue
        if not line.strip():
            continue
        record = line
        more: list[tuple[int, bytes | None]] = []
        while True:
            fields = _fields(record, delimiter)
            if fields is not None or len(more) + 1 == MAX_RECORD_LINES:
                break
            following = again.pop(0) if again else next(numbered, (0, None))
            if following[0]:
                more.append(following)
            if following[1] is None or len(record) + len(following[1]) > MAX_LINE_BYTES:
                break
            record += following[1]
        if fields is None:
            again = more + again
            fields = BadLine("a quote is not closed")
        yield number, fields


def _fields(record: bytes, delimiter: str) -> list[bytes] | BadLine | None:
    """Return the fields of a record; None if it ends inside quotes."""
    text = record.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if '"' not in text:
        return [one.encode("utf-8", "surrogateescape") for one in text.split(delimiter)]
    parsed = list[list[str]]()
    try:
        parsed = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        return BadLine("its quotes are not those of a CSV file")
    if len(parsed) != 1:
        return BadLine("it is not one CSV record")
    return [one.encode("utf-8", "surrogateescape") for one in parsed[0]]


class _Transcoder(io.RawIOBase):
    """A file in another encoding, as UTF-8; what is invalid becomes a byte that UTF-8 does not have."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._decoded = b""
        self._at_start = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._decoded:
            data = self._file.read(_READ_BYTES)
            text = self._decoder.decode(data, final=not data)
            if self._at_start:
                text = text.removeprefix("\ufeff")
            self._at_start = self._at_start and not text
            self._decoded = text.encode("utf-8", "surrogatepass").replace(b"\xef\xbf\xbd", b"\xff")
            if not data:
                break
        size = min(len(view), len(self._decoded))
        view[:size] = self._decoded[:size]
        self._decoded = self._decoded[size:]
        return size
