"""List, read and encode index files, which any release may have written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core.storage_failures import FULL_DISK
from transforms.lake.checksums import is_intact, write_parquet
from transforms.lake.files import list_files, read_bytes
from transforms.lake.layout import PARTITION_PREFIX, Layout, partition_of
from transforms.lake.rewrite_intents import replaced_files
from transforms.lake.schema import (
    HISTORY_SCHEMA,
    PARTITION,
    ROW_GROUP_ROWS,
    SCHEMA,
    IndexRow,
    conform,
    from_table,
)
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join, storage_of
from transforms.storage.seekable import open_seekable

T = TypeVar("T")

RUN_ID_KEY: Final = b"dicom_router.run_id"
"""Metadata key of a segment: ids of the runs whose rows it has."""
NEXT_PARTITION_KEY: Final = b"dicom_router.next_partition"
"""Metadata key of a seal: the partition in which its log continues."""


class DamagedFile(RuntimeError):
    """A Parquet file of the lake cannot be read; the message has its name and the remedy."""


def list_index(layout: Layout) -> list[str]:
    """Return the URIs of the index files of a lake, sorted; empty if there is no index.

    A rewrite may remove files before they are opened; see `read_index`.

    Raises:
        OSError: a folder cannot be listed.
    """
    files = _list_parquet(layout)
    while is_local(layout.root) and files != (relisted := _list_parquet(layout)):
        files = relisted  # a partition's folder was exchanged while its files were listed
    replaced = replaced_files(layout)  # after listing: an intent outlives the files it replaces
    present = set(files)
    hidden = {
        uri for merged, uris in replaced for uri in uris if merged is None or merged in present
    }
    return [uri for uri in files if uri not in hidden]


def _list_parquet(layout: Layout) -> list[str]:
    partitions = join(layout.index, PARTITION_PREFIX)
    return [f.uri for f in list_files(layout.index, ".parquet") if f.uri.startswith(partitions)]


def list_history(layout: Layout) -> list[str]:
    """Return the URIs of the files of superseded rows, sorted; an erasure may remove them, as above.

    It writes the rest of a file before it removes the file, so rows are listed twice meanwhile, and until
    an erasure that was killed has been resumed.

    Raises:
        OSError: a folder cannot be listed.
    """
    return [file.uri for file in list_files(layout.history, ".parquet")]


def read_index(
    layout: Layout,
    read: Callable[[list[str]], T],
    listed: Callable[[Layout], list[str]] | None = None,
) -> T:
    """Return what `read` returns for a consistent view of the index, while rewrites replace files.

    Args:
        layout: the lake.
        read: reads the given files; called again if one of them has been replaced.
        listed: returns the files to read, such as `list_history`; None for those of the index.

    Raises:
        FileNotFoundError: a listed file cannot be opened, for example a broken symbolic link.
    """
    listed = listed or list_index
    while True:
        files = listed(layout)
        try:
            return read(files)
        except FileNotFoundError:
            if listed(layout) == files:
                raise


def count_rows(uri: str) -> int:
    """Return the number of rows of an index file, of which only the footer is read.

    Raises:
        FileNotFoundError: it does not exist.
        DamagedFile: it cannot be read.
        OSError: its store does not answer.
    """
    if is_local(uri):
        with open_index_file(uri) as file:
            return int(file.metadata.num_rows)
    found = storage_of(uri).stat(uri)
    if found is None:
        raise FileNotFoundError(uri)
    try:
        with open_seekable(found) as file:
            return int(pq.read_metadata(file).num_rows)
    except pa.ArrowException as error:
        raise _damaged(uri, error) from error


def read_rows(files: Iterable[str], wanted: Mapping[str, pa.StringArray]) -> Iterator[IndexRow]:
    """Yield the rows of index files that have a wanted value in at least one column of `wanted`.

    Raises:
        FileNotFoundError: as `read_matching`.
        DamagedFile: as `read_matching`.
    """
    for uri in files:
        for table in read_matching(uri, SCHEMA.names, wanted):
            yield from from_table(table, partition_of(uri))


def read_metadata(uri: str) -> Mapping[bytes, bytes]:
    """Return the key-value metadata of a Parquet file.

    Raises:
        DamagedFile: it cannot be read.
    """
    with open_index_file(uri) as file:
        return dict(file.metadata.metadata or {})


def read_matching(
    uri: str,
    columns: Sequence[str],
    wanted: Mapping[str, pa.StringArray | None],
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of an index file that have a wanted value in at least one column of `wanted`.

    Of each row group, the columns of `wanted` are read first, and the others only if a row matches.

    Args:
        uri: the file.
        columns: columns to read; see `read_batches`.
        wanted: values by column; no columns, or None for each, match all rows.
        row_groups: row groups to read; None reads all.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFile: the file cannot be read.
    """
    values = {name: keys for name, keys in wanted.items() if keys is not None}
    with open_index_file(uri) as file:
        if not values:
            yield from filter(len, read_batches(file, columns, row_groups))
            return
        values = {name: keys for name, keys in values.items() if len(keys)}
        groups = range(file.num_row_groups) if row_groups is None else row_groups
        for group in groups if values else ():
            yield from _matching(file, group, columns, values)


def _matching(
    file: pq.ParquetFile, group: int, columns: Sequence[str], values: Mapping[str, pa.StringArray]
) -> Iterator[pa.Table]:
    """Yield the rows of a row group that have one of the values in at least one column."""
    masks = []
    for table in read_batches(file, list(values), [group]):
        of_columns = [_is_in(table[name], keys) for name, keys in values.items()]
        masks.append(functools.reduce(pc.or_, of_columns))
    if any(pc.any(mask).as_py() for mask in masks):
        for mask, table in zip(masks, read_batches(file, columns, [group]), strict=True):
            yield from filter(len, [table.filter(mask)])


def _is_in(column: pa.ChunkedArray, keys: pa.StringArray) -> pa.ChunkedArray:
    """Return which values of a column are among distinct keys.

    Arrow makes a hash table of the keys in each call, here of the few that the column has: a run with
    many keys reads many row groups, and the segments of a stream are small.
    """
    if len(keys) > len(column):
        keys = keys.filter(pc.is_in(keys, value_set=column))
    return pc.is_in(column, value_set=keys)


def read_batches(
    file: pq.ParquetFile, columns: Sequence[str], row_groups: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """Read columns of an index file in batches of rows; a column that the file lacks is null.

    Args:
        file: file written by any release.
        columns: names of columns of `HISTORY_SCHEMA`, in any order.
        row_groups: row groups to read; None reads all.

    Yields:
        Tables of exactly these columns, in this order.
    """
    names = set(file.schema_arrow.names)  # of a new schema each time
    present = [name for name in columns if name in names]
    for batch in file.iter_batches(ROW_GROUP_ROWS, row_groups, columns=present):
        read = {
            name: batch.column(name).cast(HISTORY_SCHEMA.field(name).type)
            if name in present
            else pa.nulls(len(batch), HISTORY_SCHEMA.field(name).type)
            for name in columns
        }
        yield pa.table(read)


def read_unified(files: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of files as tables of one schema: `SCHEMA` and the further columns of any file.

    Raises:
        FileNotFoundError: a file does not exist.
        DamagedFile: a file cannot be read.
    """
    schema = unified_schema(files)
    for uri in files:
        with open_index_file(uri) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                table = conform(pa.Table.from_batches([batch]), schema)
                yield table.replace_schema_metadata(None)


def unified_schema(files: Iterable[str]) -> pa.Schema:
    """Return `SCHEMA` with the further columns of files, without metadata.

    Raises:
        FileNotFoundError: a file does not exist.
        DamagedFile: a file cannot be read.
    """
    schema = SCHEMA
    for uri in files:
        with open_index_file(uri) as file:
            schema = conform(file.schema_arrow.empty_table(), schema).schema
    return schema.remove_metadata()


@contextlib.contextmanager
def open_index_file(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the index, history or journal.

    Raises:
        FileNotFoundError: it does not exist; a rewrite may have replaced it.
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
                raise  # from the file that the caller writes, not from this one
            raise _damaged(uri, error) from error


def _damaged(uri: str, error: Exception) -> DamagedFile:
    return DamagedFile(
        f"{uri} cannot be read ({type(error).__name__}); restore it from a backup, or move it "
        "out of the lake: its objects are then routed again"
    )


def parquet_file(uri: str) -> pq.ParquetFile:
    """Open a Parquet file, local or in an object store; page checksums, if it has any, are verified.

    Raises:
        ArrowException, OSError: it cannot be read.
    """
    if is_local(uri):
        return pq.ParquetFile(uri_to_path(uri), page_checksum_verification=True)
    return pq.ParquetFile(pa.BufferReader(read_bytes(uri)), page_checksum_verification=True)


def is_damaged(uri: str) -> bool:
    """Return whether an index file has other bytes than were written; False if it has no checksum.

    Raises:
        FileNotFoundError: it does not exist.
        DamagedFile: it cannot be read.
    """
    try:
        if not is_local(uri):
            return is_intact(io.BytesIO(read_bytes(uri))) is False
        with uri_to_path(uri).open("rb") as file:
            return is_intact(file) is False
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(uri, error) from error


def shard_of(identity: str, shards: int) -> int:
    """Return the shard, 0..shards - 1, that all rows of an identity belong to."""
    return hash_of(identity) % shards


def hash_of(text: str) -> int:
    """Return a uniformly distributed 64-bit hash of a text, equal in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def read_table(uri: str) -> pa.Table:
    """Return all rows and columns of an index file, with its partition as a column.

    Raises:
        FileNotFoundError: it does not exist.
        DamagedFile: it cannot be read.
    """
    with open_index_file(uri) as file:
        table = file.read().replace_schema_metadata(None)
    if PARTITION in table.column_names:
        return table
    return table.append_column(PARTITION, pa.array([partition_of(uri)] * len(table), pa.string()))


def parquet_bytes(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """Return the bytes of a Parquet file with the rows of a table and key-value metadata."""
    if metadata:
        table = table.replace_schema_metadata(dict(metadata))
    sink = io.BytesIO()
    write_parquet([table], sink, ROW_GROUP_ROWS)
    return sink.getvalue()
