"""Index files: deterministic names, whole or absent, and the few columns that later runs read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core.packed import pack, unpack
from transforms.lake.files import list_files, put_if_absent, read_bytes
from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.lake.schema import ROW_GROUP_ROWS, VERSION_COLUMNS, identity_of, in_order
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join


@dataclass(frozen=True, kw_only=True)
class ExistingRow:
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

    @staticmethod
    def pack(rows: Iterable[ExistingRow]) -> bytes:
        """Return rows as bytes."""
        return pack(tuple(getattr(row, name) for name in EXISTING_COLUMNS) for row in rows)

    @staticmethod
    def unpack(packed: bytes) -> list[ExistingRow]:
        """Return what was packed by `pack`."""
        return [ExistingRow(**dict(zip(EXISTING_COLUMNS, r, strict=True))) for r in unpack(packed)]


EXISTING_COLUMNS = [f.name for f in fields(ExistingRow)]
COMPACTED: Final = "compact-"
"""How the names of index files begin that hold the rows of others."""


def list_index(layout: Layout) -> list[str]:
    """Return the index files of a lake, in order; none where there is no index.

    Raises:
        OSError: a folder may not be listed; it is not taken for an empty one.
    """
    notes = compaction_notes(layout)  # before the listing: a note stands before its merged file
    partitions = join(layout.index, PARTITION_PREFIX)
    files = [f.uri for f in list_files(layout.index, ".parquet") if f.uri.startswith(partitions)]
    replaced: set[str] = set()
    for _, note in notes:
        partition = layout.partition(note["ingest_date"])
        if join(partition, note["merged"]) in files:
            replaced |= {join(partition, name) for name in note["replaced"]}
    return [uri for uri in files if uri not in replaced]


def compaction_notes(layout: Layout) -> list[tuple[str, dict[str, Any]]]:
    """Return the notes of compactions that have not ended, with their URIs."""
    notes = []
    for found in list_files(layout.compaction, ".json"):
        with contextlib.suppress(FileNotFoundError):
            notes.append((found.uri, json.loads(read_bytes(found.uri))))
    return notes


def number_of_rows(uri: str) -> int:
    """Return how many rows an index file has.

    Raises:
        RuntimeError: it is damaged.
    """
    with readable(uri) as file:
        rows: int = file.metadata.num_rows
    return rows


def is_compacted(uri: str) -> bool:
    """Whether an index file holds the rows of others, which it has replaced."""
    return uri.rpartition("/")[2].startswith(COMPACTED)


ExistingVersion = tuple[str, str | None]
"""What the skipping must know of a row: its source_version and model_id."""


def read_versions(
    uri: str, object_keys: pa.StringArray | None
) -> Iterator[tuple[str, ExistingVersion]]:
    """Read from one index file which versions of which sources it has, by source_uri.

    Args:
        uri: the file.
        object_keys: of the sources that matter; None: all do.
    """
    wanted = {"object_key": object_keys}
    for row in _read(uri, ("source_uri", "source_version", "model_id"), wanted):
        yield row["source_uri"], (row["source_version"], row["model_id"])


def read_existing(uri: str, identities: pa.StringArray | None) -> Iterator[ExistingRow]:
    """Read the rows of one index file whose identity matters; None: all do."""
    wanted = {"sop_instance_uid": identities, "content_sha256": identities}
    for row in _read(uri, EXISTING_COLUMNS, wanted):
        yield ExistingRow(**row)


def _read(
    uri: str, columns: Sequence[str], wanted: dict[str, pa.StringArray | None]
) -> Iterator[dict[str, Any]]:
    """Read the rows that have a wanted value in one of the columns of `wanted`."""
    values = {name: keys for name, keys in wanted.items() if keys is not None}
    read = [*columns, *(name for name in wanted if name not in columns)]
    with readable(uri) as file:
        for batch in file.iter_batches(ROW_GROUP_ROWS, columns=read):
            table = pa.Table.from_batches([batch])
            if values:
                masks = [pc.is_in(table[name], value_set=v) for name, v in values.items()]
                table = table.filter(functools.reduce(pc.or_, masks))
            yield from table.select(columns).to_pylist()


@contextlib.contextmanager
def readable(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the lake.

    Raises:
        RuntimeError: it is damaged; it says which and what to do.
    """
    try:
        with parquet_file(uri) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RuntimeError(
            f"{uri} cannot be read ({type(error).__name__}); restore it from a backup, or move it "
            "away: its objects are then routed again"
        ) from error


def parquet_file(uri: str) -> pq.ParquetFile:
    """Open a Parquet file, local or in an object store.

    Raises:
        ArrowException, OSError: it cannot be read.
    """
    if is_local(uri):
        return pq.ParquetFile(uri_to_path(uri))
    return pq.ParquetFile(pa.BufferReader(read_bytes(uri)))


def shard_of(identity: str, shards: int) -> int:
    """Return the shard, 0..shards - 1, that all rows of an identity belong to."""
    return hash_of(identity) % shards


def hash_of(identity: str) -> int:
    """Return 64 evenly spread bits of an identity, the same in every process."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


def write_index(layout: Layout, ingest_date: str, rows: pa.Table, shard: int) -> str:
    """Write one index file, named by the versions that its rows are of, unless it stands already.

    A retry writes the same rows under the same name; what it would have written later (times of a
    second fetch) is dropped with it.

    Args:
        layout: of the lake.
        ingest_date: the partition.
        rows: of `SCHEMA`, in any order.
        shard: that the rows belong to.
    """
    versions = zip(*(rows[name].to_pylist() for name in VERSION_COLUMNS), strict=True)
    lines = sorted("\0".join(value or "" for value in version) for version in versions)
    digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    target = join(layout.partition(ingest_date), f"part-{shard:05d}-{digest[:20]}.parquet")
    put_if_absent(target, parquet_bytes(in_order(rows)), scratch=layout.scratch())
    return target


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())
