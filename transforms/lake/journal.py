"""The journal: decided rows of a run that has not ended, written before their objects are placed.

A killed run leaves its journal. The next run takes over the rows that it would decide the same way,
so that their objects are not read again, and learns of every object that was placed but has no row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transforms.lake.index_files import parquet_bytes, readable
from transforms.lake.layout import Layout, uri_to_path
from transforms.lake.schema import PARTITION, IndexRow, to_table
from transforms.lake.store import list_folder, put_bytes, sha256_of


@dataclass(frozen=True)
class JournalRow:
    """A row that a run decided and began to place.

    Attributes:
        row: with the `object_uri` where its object was to stand.
        decided_by: digest of everything that decided it.
    """

    row: IndexRow
    decided_by: str

    @property
    def is_placed(self) -> bool:
        """Whether the very bytes that were decided stand where the row says."""
        try:
            return sha256_of(uri_to_path(str(self.row.object_uri))) == self.row.content_sha256
        except OSError:
            return False


def write_journal(layout: Layout, rows: Sequence[IndexRow], decided_by: str) -> None:
    """Write rows into a file that is named by their identities; a repeat writes nothing."""
    names = sorted(f"{row.source_uri}\0{row.source_version}" for row in rows)
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    target = layout.journal / f"{decided_by}-{digest[:32]}.parquet"
    if not os.path.exists(target):  # unlike Path.exists, false where it may not be looked at
        put_bytes(target, parquet_bytes(to_table(rows)), scratch=layout.scratch())


def list_journal(layout: Layout) -> list[Path]:
    """Return the files of the journal, in order."""
    return list_folder(layout.journal, ".parquet")


def read_journal(path: Path) -> Iterator[JournalRow]:
    """Read one file of the journal."""
    decided_by = path.name.partition("-")[0]
    with readable(path) as file:
        for row in file.read().to_pylist():
            taken_at = row.pop("ingested_at")
            microseconds = int(taken_at.timestamp()) * 1_000_000 + taken_at.microsecond
            fields = {**row, PARTITION: "", "ingested_at": microseconds}
            yield JournalRow(IndexRow(**fields), decided_by)


def taken_over(entry: JournalRow, run_id: str, ingest_date: str) -> IndexRow:
    """Return the row as the run that takes it over writes it."""
    return replace(entry.row, run_id=run_id, ingest_date=ingest_date)


def sweep_journal(layout: Layout) -> None:
    """Remove the journal of a run whose rows all stand in the index."""
    for path in list_journal(layout):
        path.unlink(missing_ok=True)
