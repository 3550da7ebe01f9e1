"""The journal: decided rows of a run that has not ended, written before their objects are placed.

It is a write-ahead log: an interrupted run leaves it, and `lake.recovery` brings what was placed into
the index and removes every object that was placed and has no row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transforms.lake.files import list_files, put_if_absent
from transforms.lake.index_files import parquet_bytes, readable
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.schema import IndexRow, from_table, to_table
from transforms.storage.base import has_same_content
from transforms.storage.schemes import join, storage_of


@dataclass(frozen=True)
class JournalRow:
    """A row that a run decided and began to place.

    Attributes:
        row: with the `object_uri` that its object was to have.
        fingerprint: of everything that decided it; see `RouteConfig.fingerprint`.
    """

    row: IndexRow
    fingerprint: str


def is_placed(row: IndexRow, layout: Layout) -> bool:
    """Return whether the very bytes that were decided are where a row says.

    Raises:
        OSError: the lake's storage refuses to answer; the object is not taken for a missing one.
    """
    uri = layout.absolute(str(row.object_uri))
    storage = storage_of(uri)
    try:
        found = storage.stat(uri)
        return found is not None and has_same_content(storage, found, str(row.content_sha256))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not is_stored(row):
            return False
        raise


def write_journal(layout: Layout, rows: Sequence[IndexRow], fingerprint: str) -> str:
    """Write rows into a file that is named by what they place and where; a repeat writes nothing.

    Returns:
        URI of the file.
    """
    names = sorted(f"{row.source_uri}\0{row.source_version}\0{row.object_uri}" for row in rows)
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    target = join(layout.journal, f"{fingerprint}-{digest[:32]}.parquet")
    put_if_absent(target, parquet_bytes(to_table(rows)), scratch=layout.scratch())
    return target


def list_journal(layout: Layout) -> list[str]:
    """Return the files of the journal, in order."""
    return [found.uri for found in list_files(layout.journal, ".parquet")]


def read_journal(uri: str, layout: Layout) -> Iterator[JournalRow]:
    """Read one file of the journal.

    Raises:
        DamagedFile: it cannot be read.
    """
    fingerprint = uri.rpartition("/")[2].partition("-")[0]
    with readable(uri) as file:
        for row in from_table(file.read(), ingest_date=""):
            relative = replace(row, object_uri=layout.relative(str(row.object_uri)))  # of format 1
            yield JournalRow(relative, fingerprint)


def sweep_journal(layout: Layout) -> None:
    """Remove the journal of a run whose rows are all in the index."""
    for uri in list_journal(layout):
        storage_of(uri).remove(uri)
