"""Tables beside the index that have a row for each content: files of each day, written once.

A run writes such rows to its journal, from which they are stored when the journal is cleared, so that a
killed run loses none. A content can have a row in several files until `lake.content_compaction` merges
those of a day, and a row can outlive the rows of its content in the index until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import pyarrow as pa

from transforms.lake.checksums import write_parquet
from transforms.lake.files import list_files, put_if_absent
from transforms.lake.index_files import DamagedFile, open_index_file
from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.lake.schema import PARTITION
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import join

READ_THREADS: Final = 8
READ_FILES: Final = 256
"""Number of journal files whose rows are in memory together."""
CONTENT: Final = "content_sha256"
"""First column of each table, by which the rows of a file are sorted."""
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ContentTable:
    """A table of a lake with rows by content.

    Attributes:
        folder: folder of the lake with its partitions.
        what: a row in words, such as "thumbnail".
        schema: columns, the first of which is `CONTENT`.
        value: column that a content determines, text or bytes.
        journaled: column of a journal file with the value of a row, or null. Files without values lack
            it.
        journal_columns: columns of the index that rows have, too.
        complete: returns a row with all columns for one with those in the journal.
        max_file_rows: maximum number of rows of a file.
        group_rows: number of rows of a row group, all of which are read for one of them.
    """

    folder: str
    what: str
    schema: pa.Schema
    value: str
    journaled: str
    journal_columns: tuple[str, ...]
    max_file_rows: int
    group_rows: int
    complete: Callable[[Row], Row] = field(default=lambda row: row)

    def partition(self, layout: Layout, ingest_date: str) -> str:
        """Return the folder of the files of a day, YYYY-MM-DD."""
        return join(layout.root, self.folder, f"{PARTITION_PREFIX}{ingest_date}")


def write_rows(
    layout: Layout, table: ContentTable, ingest_date: str, rows: Iterable[Row]
) -> list[str]:
    """Write rows to files of a partition, one per content. Idempotent: names are digests.

    Args:
        layout: the lake.
        table: its table.
        ingest_date: the partition, YYYY-MM-DD.
        rows: in any order; the first of each content is written.

    Returns:
        URIs of the files.

    Raises:
        ProcessingFailure: the lake's storage refused a write.
    """
    by_content: dict[str, Row] = {}
    uris = []
    for row in rows:
        by_content.setdefault(row[CONTENT], row)
        if len(by_content) == table.max_file_rows:
            uris.append(_write_file(layout, table, ingest_date, list(by_content.values())))
            by_content.clear()
    if by_content:
        uris.append(_write_file(layout, table, ingest_date, list(by_content.values())))
    return uris


def write_table(layout: Layout, table: ContentTable, ingest_date: str, rows: pa.Table) -> str:
    """Write rows of the table's schema as one file of a partition, sorted; return its URI.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    rows = rows.sort_by(CONTENT).combine_chunks()
    digest = hashlib.sha256()
    for sha256, value in zip(rows[CONTENT].to_pylist(), rows[table.value].to_pylist(), strict=True):
        data = value.encode() if isinstance(value, str) else value
        digest.update(sha256.encode() + hashlib.sha256(data).digest())
    name = f"{digest.hexdigest()[:20]}.parquet"
    uri = join(table.partition(layout, ingest_date), name)
    data = io.BytesIO()
    write_parquet([rows], data, table.group_rows)
    put_if_absent(uri, data.getvalue(), scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri


def store_journaled(
    layout: Layout,
    table: ContentTable,
    journal_files: Sequence[str],
    ingest_date: str | None = None,
) -> None:
    """Store the rows in journal files, which are about to be removed.

    Contents that have a row in the partition keep it.

    Args:
        layout: the lake.
        table: its table.
        journal_files: URIs.
        ingest_date: the partition, YYYY-MM-DD; None takes that of the rows.

    Raises:
        DamagedFile: a journal file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    stored: dict[str, set[str]] = {}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(journal_files), READ_FILES):
            uris = journal_files[start : start + READ_FILES]
            read = pool.map(lambda uri: _journaled(table, uri), uris)
            for day, row in itertools.chain.from_iterable(read):
                of_day = found[ingest_date or day]
                of_day.append(row)
                if len(of_day) == table.max_file_rows:
                    _write_new(layout, table, ingest_date or day, of_day, stored)
                    of_day.clear()
    for day, rows in found.items():
        _write_new(layout, table, day, rows, stored)


def list_table(layout: Layout, table: ContentTable) -> list[ObjectInfo]:
    """Return the files of a table, sorted by URI."""
    folder = join(layout.root, table.folder)
    prefix = join(folder, PARTITION_PREFIX)
    return [info for info in list_files(folder, ".parquet") if info.uri.startswith(prefix)]


def _write_new(
    layout: Layout, table: ContentTable, day: str, rows: Sequence[Row], stored: dict[str, set[str]]
) -> None:
    """Write the rows of contents that have none in the partition, and add them to `stored`."""
    if day not in stored:
        stored[day] = _stored_contents(layout, table, day)
    write_rows(layout, table, day, [row for row in rows if row[CONTENT] not in stored[day]])
    stored[day].update(row[CONTENT] for row in rows)


def _stored_contents(layout: Layout, table: ContentTable, day: str) -> set[str]:
    """Return the contents that have a row in a partition."""
    contents: set[str] = set()
    for info in list_files(table.partition(layout, day), ".parquet"):
        with contextlib.suppress(DamagedFile, FileNotFoundError), open_index_file(info.uri) as file:
            contents.update(file.read(columns=[CONTENT])[CONTENT].to_pylist())
    return contents


def _write_file(layout: Layout, table: ContentTable, ingest_date: str, rows: Sequence[Row]) -> str:
    return write_table(
        layout, table, ingest_date, pa.Table.from_pylist(list(rows), schema=table.schema)
    )


def _journaled(table: ContentTable, uri: str) -> list[tuple[str, Row]]:
    """Return the rows in a journal file, each with the partition of its row of the index."""
    with open_index_file(uri) as file:
        if table.journaled not in file.schema_arrow.names:
            return []
        columns = [table.journaled, PARTITION, *table.journal_columns]
        rows = file.read(columns=columns).to_pylist()
    return [
        (
            row[PARTITION],
            table.complete(
                {
                    **{name: row[name] for name in table.journal_columns},
                    table.value: row[table.journaled],
                }
            ),
        )
        for row in rows
        if row[table.journaled] is not None
    ]
