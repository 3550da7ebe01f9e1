"""Checksums of the Parquet files of a lake, by which `verify` finds a flipped bit anywhere in them.

Parquet has a CRC-32 for each page, which any reader can verify, but none for page headers and the footer.
Files are therefore also written with a trailer between the pages and the footer: the sha256 of all other
bytes of the file, between two `MAGIC`s, of which one remains if the other is damaged. Readers skip the
trailer, since they find everything in a Parquet file by offsets in its footer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC: Final = b"\xff\xfedicom-router\xff\xfe\xff"
"""Start and end of the trailer; not valid UTF-8, so that no value in a file can imitate it."""
TRAILER_BYTES: Final = 2 * len(MAGIC) + hashlib.sha256().digest_size
BLOCK_BYTES: Final = 1 << 20
_END: Final = b"PAR1"
_END_BYTES: Final = 8
"""Length of the footer, 4 bytes little-endian, and `_END`."""


def write_parquet(tables: Iterable[pa.Table], sink: BinaryIO, row_group_size: int) -> int:
    """Write tables of one schema as one Parquet file with checksums; nothing if there are no tables.

    Args:
        tables: the tables; small ones share a row group.
        sink: empty file that can be read and written at any position.
        row_group_size: maximum number of rows of a row group.

    Returns:
        Number of rows.
    """
    rows, writer = 0, None
    try:
        for table in _coalesced(tables, row_group_size):
            if writer is None:
                writer = pq.ParquetWriter(
                    sink, table.schema, compression="zstd", write_page_checksum=True
                )
            writer.write_table(table, row_group_size=row_group_size)
            rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        _add_trailer(sink)
    return rows


def _coalesced(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of tables as tables of a number of rows, of which the last may have fewer."""
    waiting: list[pa.Table] = []
    number = 0
    for table in tables:
        waiting.append(table)
        number += len(table)
        if number >= rows:
            whole = pa.concat_tables(waiting)
            full = number - number % rows
            yield whole.slice(0, full)
            waiting, number = [whole.slice(full)] if number > full else [], number - full
    if waiting:
        yield pa.concat_tables(waiting)


def is_intact(file: BinaryIO) -> bool | None:
    """Return whether the bytes of a Parquet file are those that were written.

    Args:
        file: file that can be read at any position.

    Returns:
        None if the file has no trailer, because another program or an earlier release wrote it.
    """
    split = _footer_position(file)
    if split is not None and split >= TRAILER_BYTES:
        start = split - TRAILER_BYTES
        file.seek(start)
        trailer = file.read(TRAILER_BYTES)
        if trailer.startswith(MAGIC) and trailer.endswith(MAGIC):
            return trailer == _trailer(_digest(file, start, split))
    return False if _has_magic(file) else None


def _add_trailer(file: BinaryIO) -> None:
    split = _footer_position(file)
    assert split is not None
    file.seek(split)
    footer = file.read()
    trailer = _trailer(_digest(file, split, split))
    file.seek(split)
    file.write(trailer + footer)
    file.flush()


def _trailer(digest: bytes) -> bytes:
    return MAGIC + digest + MAGIC


def _footer_position(file: BinaryIO) -> int | None:
    """Return where the footer begins; None if the file does not end like a Parquet file."""
    size = file.seek(0, os.SEEK_END)
    if size < _END_BYTES:
        return None
    file.seek(size - _END_BYTES)
    end = file.read(_END_BYTES)
    position = size - _END_BYTES - int.from_bytes(end[:4], "little")
    return position if end[4:] == _END and position >= 0 else None


def _digest(file: BinaryIO, end: int, start: int) -> bytes:
    """Return the sha256 of the bytes before `end` and from `start` on."""
    sha256 = hashlib.sha256()
    file.seek(0)
    for block in _blocks(file, end):
        sha256.update(block)
    file.seek(start)
    for block in _blocks(file):
        sha256.update(block)
    return sha256.digest()


def _has_magic(file: BinaryIO) -> bool:
    """Return whether `MAGIC` is anywhere in a file."""
    file.seek(0)
    before = b""
    for block in _blocks(file):
        if MAGIC in before + block:
            return True
        before = block[-len(MAGIC) :]
    return False


def _blocks(file: BinaryIO, number: int | None = None) -> Iterator[bytes]:
    """Yield the next bytes of a file: as many as given, or all."""
    while number is None or number > 0:
        block = file.read(BLOCK_BYTES if number is None else min(BLOCK_BYTES, number))
        if not block:
            return
        if number is not None:
            number -= len(block)
        yield block
