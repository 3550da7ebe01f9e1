"""The journal: decided rows of a run that has not ended, written before their objects are placed.

A killed run leaves its journal. The next run takes over the rows that it would decide the same way,
so that their objects are not read again, and learns of every object that was placed but has no row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from transforms.core.packed import pack, unpack
from transforms.lake.files import list_files, put_if_absent
from transforms.lake.index_files import parquet_bytes, readable
from transforms.lake.layout import Layout
from transforms.lake.schema import PARTITION, IndexRow, to_table
from transforms.storage.base import has_same_content
from transforms.storage.schemes import join, storage_of


@dataclass(frozen=True)
class JournalRow:
    """A row that a run decided and began to place.

    Attributes:
        row: with the `object_uri` where its object was to stand.
        decided_by: digest of everything that decided it.
    """

    row: IndexRow
    fingerprint: str

    @staticmethod
    def pack(entries: Iterable[JournalRow]) -> bytes:
        """Return entries as bytes."""
        return pack((entry.row.packed(), entry.fingerprint) for entry in entries)

    @staticmethod
    def unpack(packed: bytes) -> list[JournalRow]:
        """Return what was packed by `pack`."""
        return [JournalRow(IndexRow.unpacked(row), digest) for row, digest in unpack(packed)]

    @property
    def is_placed(self) -> bool:
        """Whether the very bytes that were decided stand where the row says."""
        uri = str(self.row.object_uri)
        storage = storage_of(uri)
        try:
            found = storage.stat(uri)
            return found is not None and has_same_content(
                storage, found, str(self.row.content_sha256)
            )
        except OSError:
            return False


def write_journal(layout: Layout, rows: Sequence[IndexRow], fingerprint: str) -> None:
    """Write rows into a file that is named by what they place and where; a repeat writes nothing."""
    names = sorted(f"{row.source_uri}\0{row.source_version}\0{row.object_uri}" for row in rows)
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    target = join(layout.journal, f"{fingerprint}-{digest[:32]}.parquet")
    put_if_absent(target, parquet_bytes(to_table(rows)), scratch=layout.scratch())


def list_journal(layout: Layout) -> list[str]:
    """Return the files of the journal, in order."""
    return [found.uri for found in list_files(layout.journal, ".parquet")]


def read_journal(uri: str) -> Iterator[JournalRow]:
    """Read one file of the journal."""
    fingerprint = uri.rpartition("/")[2].partition("-")[0]
    with readable(uri) as file:
        for row in file.read().to_pylist():
            taken_at = row.pop("ingested_at")
            microseconds = int(taken_at.timestamp()) * 1_000_000 + taken_at.microsecond
            fields = {**row, PARTITION: "", "ingested_at": microseconds}
            yield JournalRow(IndexRow(**fields), fingerprint)


def recovered_row(entry: JournalRow, run_id: str, ingest_date: str) -> IndexRow:
    """Return the row as the run that takes it over writes it."""
    return replace(entry.row, run_id=run_id, ingest_date=ingest_date)


def sweep_journal(layout: Layout) -> None:
    """Remove the journal of a run whose rows all stand in the index."""
    for uri in list_journal(layout):
        storage_of(uri).remove(uri)
