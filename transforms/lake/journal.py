"""The journal: a write-ahead log of decided rows, written before their objects are placed.

It is empty after a complete run. From the journal of an interrupted run, `lake.recovery` indexes the
objects that were placed, or removes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from transforms.lake.content_tables import store_journaled
from transforms.lake.files import list_files, put_if_absent
from transforms.lake.headers import HEADERS
from transforms.lake.index_files import open_index_file, parquet_bytes
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.schema import PARTITION, IndexRow, from_table, to_table
from transforms.lake.thumbnails import THUMBNAILS
from transforms.storage.base import has_same_content
from transforms.storage.schemes import join, storage_of

_WAS_ABSENT: Final = "was_absent"
_TABLES: Final = (THUMBNAILS, HEADERS)
"""Tables whose rows are in the journal with those of the index."""


@dataclass(frozen=True)
class JournalEntry:
    """A decided row whose object may have been placed.

    Attributes:
        row: the row, with the `object_uri` of its object.
        fingerprint: fingerprint of the run's configuration; see `RouteConfig.fingerprint`.
        was_absent: whether the run has noted that the object did not exist before it was placed.
    """

    row: IndexRow
    fingerprint: str
    was_absent: bool = False


def is_placed(row: IndexRow, layout: Layout) -> bool:
    """Return whether the object of a row exists with the right content.

    Raises:
        OSError: the lake's storage does not respond.
    """
    uri = layout.absolute(str(row.object_uri))
    storage = storage_of(uri)
    try:
        info = storage.stat(uri)
        return info is not None and has_same_content(storage, info, str(row.content_sha256))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not is_stored(row):
            return False
        raise


def write_journal(
    layout: Layout, rows: Sequence[IndexRow], fingerprint: str, absent: Set[str] = frozenset()
) -> str:
    """Write rows to a journal file. Idempotent: its name is a digest of sources and objects.

    Args:
        layout: the lake.
        rows: decided rows with their `object_uri`.
        fingerprint: fingerprint of the run's configuration.
        absent: `object_uri` of rows whose objects do not exist, if the run takes note of this.

    Returns:
        URI of the file.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    names = sorted(f"{row.source_uri}\0{row.source_version}\0{row.object_uri}" for row in rows)
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    target = join(layout.journal, f"{fingerprint}-{digest[:32]}.parquet")
    table = _with_values(to_table(rows), rows)
    if absent:
        flags = [uri in absent for uri in table["object_uri"].to_pylist()]
        table = table.append_column(_WAS_ABSENT, pa.array(flags))
    put_if_absent(
        target, parquet_bytes(table), scratch=layout.scratch(), file_mode=layout.file_mode
    )
    return target


def list_journal(layout: Layout) -> list[str]:
    """Return the URIs of the journal files, sorted."""
    return [file.uri for file in list_files(layout.journal, ".parquet")]


def read_journal(uri: str, layout: Layout) -> Iterator[JournalEntry]:
    """Yield the entries of a journal file.

    Raises:
        DamagedFile: the file cannot be read.
    """
    fingerprint = uri.rpartition("/")[2].partition("-")[0]
    with open_index_file(uri) as file:
        left_out = {table.journaled for table in _TABLES}
        table = file.read([name for name in file.schema_arrow.names if name not in left_out])
    if _WAS_ABSENT in table.column_names:
        was_absent = table[_WAS_ABSENT].to_pylist()
    else:
        was_absent = [False] * len(table)
    for row, absent in zip(from_table(table, ingest_date=""), was_absent, strict=True):
        object_uri = layout.relative(str(row.object_uri))  # absolute in format 1
        yield JournalEntry(replace(row, object_uri=object_uri), fingerprint, absent)


def run_ids_in(uri: str) -> set[str]:
    """Return the ids of the runs that decided the rows of a journal file.

    Raises:
        DamagedFile: the file cannot be read.
    """
    with open_index_file(uri) as file:
        return set(file.read(columns=["run_id"])["run_id"].to_pylist())


def clear_journal(layout: Layout) -> None:
    """Remove all journal files, once every row is in the index; see `remove_journal_files`."""
    remove_journal_files(layout, list_journal(layout))


def remove_journal_files(
    layout: Layout, uris: Iterable[str], ingest_date: str | None = None
) -> None:
    """Store the thumbnails and headers in journal files, then remove the files.

    Args:
        layout: the lake.
        uris: the files.
        ingest_date: their partition, YYYY-MM-DD; None takes that of the journaled rows.

    Raises:
        DamagedFile: a file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    files = list(uris)
    for table in _TABLES:
        store_journaled(layout, table, files, ingest_date)
    for uri in files:
        storage_of(uri).remove(uri)


def _with_values(table: pa.Table, rows: Sequence[IndexRow]) -> pa.Table:
    """Return a table of rows with their thumbnails and headers, and the partitions of these."""
    contents = table["content_sha256"].to_pylist()
    values = {
        one.journaled: {
            row.content_sha256: value
            for row in rows
            if (value := getattr(row, one.journaled)) is not None
        }
        for one in _TABLES
    }
    types = {one.journaled: one.schema.field(one.value).type for one in _TABLES}
    if any(values.values()):
        values[PARTITION] = {row.content_sha256: row.ingest_date for row in rows}
        types[PARTITION] = pa.string()
    for name, by_content in values.items():
        if by_content:
            column = pa.array([by_content.get(sha256) for sha256 in contents], types[name])
            table = table.append_column(name, column)
    return table
