"""Merge the small files of past days of a table by content, and drop rows that no current row references.

Merged files are written before the files that they replace are removed: if this is interrupted, some
rows are stored twice, until the next compaction.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.lake.content_tables import CONTENT, ContentTable, list_table, write_table
from transforms.lake.files import remove_all
from transforms.lake.index_files import DamagedFile, open_index_file, read_batches, read_index
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout, partition_of

DIGITS: Final = 32
"""Number of hex digits of a sha256 that are kept in memory to recognize it."""


@dataclass(frozen=True)
class CompactedTable:
    """Result of `compact_table`.

    Attributes:
        merged_files: number of files that were replaced.
        dropped: number of rows that no current row references.
        rows: number of rows in the new files.
    """

    merged_files: int = 0
    dropped: int = 0
    rows: int = 0


def compact_table(layout: Layout, table: ContentTable, before: str) -> CompactedTable:
    """Merge the files of each partition before a day, and drop unreferenced rows.

    The caller holds the lake's `LOCK`. Streams may write rows at the same time. A row is referenced by a
    current row, or a row in the journal, with its content_sha256. Files that cannot be read are left to
    `verify`.

    Args:
        layout: the lake.
        table: its table.
        before: YYYY-MM-DD in UTC; at most today, because streams write to today's partition.

    Raises:
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    days: dict[str, list[str]] = defaultdict(list)
    for info in list_table(layout, table):
        if partition_of(info.uri) < before:
            days[partition_of(info.uri)].append(info.uri)
    if not days:
        return CompactedTable()
    stored = [c for uris in days.values() for _, contents in _digits(uris) for c in contents.chunks]
    referenced = _referenced(layout, pc.unique(pa.chunked_array(stored, pa.string())))
    results = [
        _compact_day(layout, table, day, uris, referenced) for day, uris in sorted(days.items())
    ]
    return CompactedTable(
        sum(one.merged_files for one in results),
        sum(one.dropped for one in results),
        sum(one.rows for one in results),
    )


def _compact_day(
    layout: Layout, table: ContentTable, day: str, uris: Sequence[str], referenced: set[bytes]
) -> CompactedTable:
    seen: set[bytes] = set()
    merged: list[tuple[str, pa.BooleanArray]] = []
    dropped = 0
    for uri, contents in sorted(_contents(uris), key=lambda item: (-len(item[1]), item[0])):
        kept = []
        for content in contents:
            is_referenced = content in referenced
            dropped += not is_referenced
            kept.append(is_referenced and content not in seen)
            seen.add(content)
        if not all(kept) or len(kept) < table.max_file_rows // 2:
            merged.append((uri, pa.array(kept, pa.bool_())))
    if len(merged) < 2 and all(mask.false_count == 0 for _, mask in merged):
        return CompactedTable()
    rows = 0
    written = set()
    for chunk in _chunks(table, merged):
        rows += len(chunk)
        written.add(write_table(layout, table, day, chunk))
    remove_all(uri for uri, _ in merged if uri not in written)
    return CompactedTable(len(merged), dropped, rows)


def _contents(uris: Iterable[str]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the contents of each file that can be read, shortened."""
    for uri, digits in _digits(uris):
        yield uri, _to_bytes(digits)


def _digits(uris: Iterable[str]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield the first digits of the contents of each file that can be read."""
    for uri in uris:
        with contextlib.suppress(DamagedFile), open_index_file(uri) as file:
            yield uri, _first_digits(file.read([CONTENT])[CONTENT])


def _chunks(
    table: ContentTable, files: Iterable[tuple[str, pa.BooleanArray]]
) -> Iterator[pa.Table]:
    """Yield the kept rows of files as tables of at most `max_file_rows`."""
    rows: list[pa.Table] = []
    number = 0
    for uri, mask in files:
        with open_index_file(uri) as file:
            kept = file.read(table.schema.names).cast(table.schema).filter(mask)
        while number + len(kept) >= table.max_file_rows:
            head = kept.slice(0, table.max_file_rows - number)
            yield pa.concat_tables([*rows, head])
            kept, rows, number = kept.slice(len(head)), [], 0
        rows.append(kept)
        number += len(kept)
    if number:
        yield pa.concat_tables(rows)


def _referenced(layout: Layout, stored: pa.Array) -> set[bytes]:
    """Return those of some contents that current rows and rows in the journal have, shortened.

    Args:
        layout: the lake.
        stored: first digits of contents, each once. They are far fewer than the rows.
    """
    found = read_index(layout, lambda files: _contents_of_rows(files, stored))
    for uri in list_journal(layout):
        with contextlib.suppress(FileNotFoundError):  # indexed since the listing
            found |= _contents_of_rows([uri], stored)
    return found


def _contents_of_rows(files: Sequence[str], stored: pa.Array) -> set[bytes]:
    found: set[bytes] = set()
    for uri in files:
        with open_index_file(uri) as file:
            for batch in read_batches(file, [CONTENT]):
                digits = _first_digits(batch[CONTENT])
                found.update(_to_bytes(digits.filter(pc.is_in(digits, value_set=stored))))
    return found


def _first_digits(contents: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(contents, 0, DIGITS)


def _to_bytes(digits: pa.ChunkedArray) -> list[bytes]:
    return [bytes.fromhex(one) for one in digits.to_pylist()]
