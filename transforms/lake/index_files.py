"""Index files: listing them, reading them whatever release wrote them, writing their bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core.error_reasons import FULL_DISK
from transforms.lake.files import list_files, read_bytes
from transforms.lake.layout import PARTITION_PREFIX, Layout, partition_of
from transforms.lake.rewrite_notes import replaced_files
from transforms.lake.schema import HISTORY_SCHEMA, PARTITION, ROW_GROUP_ROWS, identity_of
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join

T = TypeVar("T")

RUN_ID_KEY: Final = b"dicom_router.run_id"
"""Key of a segment's metadata: the run that wrote it."""
NEXT_PARTITION_KEY: Final = b"dicom_router.next_partition"
"""Key of a seal's metadata: the partition that its log goes on in."""


class DamagedFile(RuntimeError):
    """A Parquet file of the lake cannot be read; the message says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ExistingRow:
    """What a later run must know of a row of the index."""

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


EXISTING_COLUMNS = [f.name for f in fields(ExistingRow)]


@dataclass(frozen=True)
class ExistingVersion:
    """What filtering needs of a row of the index: which version of a source, decided by what.

    Attributes:
        source_uri: as of the row.
        source_version: as of the row.
        model_id: as of the row; None where no model decided it.
        policy_id: as of the row; None where its object is unreadable, or in rows of format 1.
        status: as of the row.
    """

    source_uri: str
    source_version: str
    model_id: str | None
    policy_id: str | None
    status: str


VERSION_FIELDS: Final = tuple(f.name for f in fields(ExistingVersion))


def list_index(layout: Layout) -> list[str]:
    """Return the index files of a lake, in order; none where there is no index.

    A rewrite may remove files before they are opened; see `read_index`.

    Raises:
        OSError: a folder may not be listed; it is not taken for an empty one.
    """
    partitions = join(layout.index, PARTITION_PREFIX)
    files = [f.uri for f in list_files(layout.index, ".parquet") if f.uri.startswith(partitions)]
    # After the listing: a note stays until all files that it replaces are gone.
    replaced = replaced_files(layout)
    present = set(files)
    gone = {uri for merged, uris in replaced for uri in uris if merged is None or merged in present}
    return [uri for uri in files if uri not in gone]


def read_index(layout: Layout, read: Callable[[], T]) -> T:
    """Return what is read of the index as of one moment, though rewrites replace files meanwhile.

    Args:
        layout: the lake.
        read: lists the index and reads it; called again where a listed file is gone.

    Raises:
        FileNotFoundError: a file is listed and cannot be opened, such as a broken link.
    """
    while True:
        listed = list_index(layout)
        try:
            return read()
        except FileNotFoundError:
            if list_index(layout) == listed:
                raise


def number_of_rows(uri: str) -> int:
    """Return how many rows an index file has.

    Raises:
        DamagedFile: it cannot be read.
    """
    with readable(uri) as file:
        rows: int = file.metadata.num_rows
    return rows


def metadata_of(uri: str) -> Mapping[bytes, bytes]:
    """Return the key-value metadata of a Parquet file.

    Raises:
        DamagedFile: it cannot be read.
    """
    with readable(uri) as file:
        return dict(file.metadata.metadata or {})


def read_versions(uri: str, object_keys: pa.StringArray | None) -> Iterator[ExistingVersion]:
    """Read from one index file which versions of which sources it has.

    Args:
        uri: the file.
        object_keys: of the sources that matter; None: all do.
    """
    for rows in matching(uri, VERSION_FIELDS, {"object_key": object_keys}):
        yield from (ExistingVersion(**row) for row in rows.to_pylist())


def read_existing(uri: str, identities: pa.StringArray | None) -> Iterator[ExistingRow]:
    """Read the rows of one index file whose identity matters; None: all do."""
    wanted = {"sop_instance_uid": identities, "content_sha256": identities}
    for rows in matching(uri, EXISTING_COLUMNS, wanted):
        yield from (ExistingRow(**row) for row in rows.to_pylist())


def matching(
    uri: str, columns: Sequence[str], wanted: Mapping[str, pa.StringArray | None]
) -> Iterator[pa.Table]:
    """Read the rows of one index file that have a wanted value in one of some columns.

    Args:
        uri: the file.
        columns: as of `batches`.
        wanted: values by column; None: all rows match.

    Raises:
        FileNotFoundError: the file is gone.
        DamagedFile: it cannot be read.
    """
    values = {name: keys for name, keys in wanted.items() if keys is not None}
    names = [*columns, *(name for name in wanted if name not in columns)]
    with readable(uri) as file:
        for table in batches(file, names):
            if values:
                masks = [pc.is_in(table[name], value_set=v) for name, v in values.items()]
                table = table.filter(functools.reduce(pc.or_, masks))
            if len(table):
                yield table.select(columns)


def batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read columns of an index file, batch by batch; those that it lacks are null.

    Args:
        file: of any release.
        columns: of `HISTORY_SCHEMA`, in any order.

    Yields:
        Tables of just these columns, in this order.
    """
    present = [name for name in columns if name in file.schema_arrow.names]
    for batch in file.iter_batches(ROW_GROUP_ROWS, columns=present):
        read = {
            name: batch.column(name).cast(HISTORY_SCHEMA.field(name).type)
            if name in present
            else pa.nulls(len(batch), HISTORY_SCHEMA.field(name).type)
            for name in columns
        }
        yield pa.table(read)


@contextlib.contextmanager
def readable(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the lake.

    Raises:
        FileNotFoundError: it is gone, as a rewrite has replaced it.
        DamagedFile: it cannot be read.
    """
    try:
        file = parquet_file(uri)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, error) from error
    with file:
        try:
            yield file
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise  # of a copy that is being written, not of this file
            raise _damaged(uri, error) from error


def _damaged(uri: str, error: Exception) -> DamagedFile:
    return DamagedFile(
        f"{uri} cannot be read ({type(error).__name__}); restore it from a backup, or move it "
        "away: its objects are then routed again"
    )


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


def read_table(uri: str) -> pa.Table:
    """Return all rows and columns of one index file, with its partition as a column.

    Raises:
        FileNotFoundError: it is gone.
        DamagedFile: it cannot be read.
    """
    with readable(uri) as file:
        table = file.read().replace_schema_metadata(None)
    if PARTITION in table.column_names:
        return table
    return table.append_column(PARTITION, pa.array([partition_of(uri)] * len(table), pa.string()))


def parquet_bytes(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """Return a table as a Parquet file, with metadata of the file."""
    sink = pa.BufferOutputStream()
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())
