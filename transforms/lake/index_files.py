"""Index files: deterministic names, whole or absent, and the few columns that later runs read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.lake.layout import Layout
from transforms.lake.schema import ROW_GROUP_ROWS, IndexRow, identity_of, to_table
from transforms.lake.store import list_folder, put_bytes


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What a later run must know of a row that the lake holds."""

    source_uri: str
    source_version: str
    model_id: str | None
    status: str
    destination: str
    object_uri: str
    sop_instance_uid: str | None
    content_sha256: str

    @property
    def identity(self) -> str:
        """As `IndexRow.identity`."""
        return identity_of(self.status, self.sop_instance_uid, self.content_sha256)


LEDGER_COLUMNS = [f.name for f in fields(LedgerRow)]


def list_index(layout: Layout) -> list[Path]:
    """Return the index files of a lake, in order; none where there is no index.

    Raises:
        OSError: a folder may not be listed; it is not taken for an empty one.
    """
    partitions = [p for p in list_folder(layout.index) if p.name.startswith("ingest_date=")]
    return [file for folder in partitions for file in list_folder(folder, ".parquet")]


def read_ledger(path: Path) -> Iterator[LedgerRow]:
    """Read one index file, a batch of rows at a time."""
    with readable(path) as file:
        for batch in file.iter_batches(columns=LEDGER_COLUMNS):
            for row in batch.to_pylist():
                yield LedgerRow(**row)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the lake.

    Raises:
        RuntimeError: it is damaged; it says which and what to do.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RuntimeError(
            f"{path} cannot be read ({type(error).__name__}); restore it from a backup, or move it "
            "away: its objects are then routed again"
        ) from error


def shard_of(identity: str, shards: int) -> int:
    """Return the shard, 0..shards - 1, that all rows of an identity belong to."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % shards


def write_index(layout: Layout, ingest_date: str, rows: Sequence[IndexRow], shard: int) -> Path:
    """Write one index file, named by the rows' identities, unless it stands already.

    A retry writes the same rows under the same name; what it would have written later (times of a
    second fetch) is dropped with it.
    """
    identities = sorted(f"{r.source_uri}\0{r.source_version}\0{r.model_id or ''}" for r in rows)
    digest = hashlib.sha256("\n".join(identities).encode("utf-8", "surrogateescape")).hexdigest()
    target = layout.partition(ingest_date) / f"part-{shard:05d}-{digest[:20]}.parquet"
    if not os.path.exists(target):  # unlike Path.exists, false where it may not be looked at
        put_bytes(target, parquet_bytes(to_table(rows)), scratch=layout.scratch())
    return target


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())
