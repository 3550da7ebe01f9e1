"""Merge the small files of thumbnails of past days, and drop thumbnails that no current row references.

Merged files are written before the files that they replace are removed: if this is interrupted, some
thumbnails are stored twice, until the next compaction.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.lake.files import remove_all
from transforms.lake.index_files import DamagedFile, open_index_file, read_batches, read_index
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout, partition_of
from transforms.lake.thumbnails import MAX_FILE_ROWS, SCHEMA, list_thumbnail_files, write_table

MIN_FILE_ROWS: Final = MAX_FILE_ROWS // 2
"""Number of thumbnails from which a file is not merged with others."""
DIGITS: Final = 32
"""Number of hex digits of a sha256 that are kept in memory to recognize it."""


@dataclass(frozen=True)
class CompactedThumbnails:
    """Result of `compact_thumbnails`.

    Attributes:
        merged_files: number of files that were replaced.
        dropped: number of thumbnails that no current row references.
        thumbnails: number of thumbnails in the new files.
    """

    merged_files: int = 0
    dropped: int = 0
    thumbnails: int = 0


def compact_thumbnails(layout: Layout, before: str) -> CompactedThumbnails:
    """Merge the files of thumbnails of each partition before a day, and drop unreferenced thumbnails.

    The caller holds the lake's `LOCK`. Streams may write thumbnails at the same time. A thumbnail is
    referenced by a current row, or a row in the journal, with its content_sha256. Files that cannot be
    read are left to `verify`.

    Args:
        layout: the lake.
        before: YYYY-MM-DD in UTC; at most today, because streams write to today's partition.

    Raises:
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    days: dict[str, list[str]] = defaultdict(list)
    for info in list_thumbnail_files(layout):
        if partition_of(info.uri) < before:
            days[partition_of(info.uri)].append(info.uri)
    if not days:
        return CompactedThumbnails()
    stored = [c for uris in days.values() for _, contents in _digits(uris) for c in contents.chunks]
    referenced = _referenced(layout, pc.unique(pa.chunked_array(stored, pa.string())))
    results = [_compact_day(layout, day, uris, referenced) for day, uris in sorted(days.items())]
    return CompactedThumbnails(
        sum(one.merged_files for one in results),
        sum(one.dropped for one in results),
        sum(one.thumbnails for one in results),
    )


def _compact_day(
    layout: Layout, day: str, uris: Sequence[str], referenced: set[bytes]
) -> CompactedThumbnails:
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
        if not all(kept) or len(kept) < MIN_FILE_ROWS:
            merged.append((uri, pa.array(kept, pa.bool_())))
    if len(merged) < 2 and all(mask.false_count == 0 for _, mask in merged):
        return CompactedThumbnails()
    rows = 0
    written = set()
    for table in _chunks(merged):
        rows += len(table)
        written.add(write_table(layout, day, table))
    remove_all(uri for uri, _ in merged if uri not in written)
    return CompactedThumbnails(len(merged), dropped, rows)


def _contents(uris: Iterable[str]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the contents of each file that can be read, shortened."""
    for uri, digits in _digits(uris):
        yield uri, _to_bytes(digits)


def _digits(uris: Iterable[str]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield the first digits of the contents of each file that can be read."""
    for uri in uris:
        with contextlib.suppress(DamagedFile), open_index_file(uri) as file:
            yield uri, _first_digits(file.read(["content_sha256"])["content_sha256"])


def _chunks(files: Iterable[tuple[str, pa.BooleanArray]]) -> Iterator[pa.Table]:
    """Yield the kept rows of files as tables of at most `MAX_FILE_ROWS`."""
    rows: list[pa.Table] = []
    number = 0
    for uri, mask in files:
        with open_index_file(uri) as file:
            table = file.read(SCHEMA.names).cast(SCHEMA).filter(mask)
        while number + len(table) >= MAX_FILE_ROWS:
            head = table.slice(0, MAX_FILE_ROWS - number)
            yield pa.concat_tables([*rows, head])
            table, rows, number = table.slice(len(head)), [], 0
        rows.append(table)
        number += len(table)
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
            for batch in read_batches(file, ["content_sha256"]):
                digits = _first_digits(batch["content_sha256"])
                found.update(_to_bytes(digits.filter(pc.is_in(digits, value_set=stored))))
    return found


def _first_digits(contents: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(contents, 0, DIGITS)


def _to_bytes(digits: pa.ChunkedArray) -> list[bytes]:
    return [bytes.fromhex(one) for one in digits.to_pylist()]
