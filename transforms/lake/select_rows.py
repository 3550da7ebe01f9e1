"""Select current rows of a lake by a condition, and read only the columns that are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.errors import UsageError, did_you_mean
from transforms.lake.index_files import open_index_file, read_batches, read_index
from transforms.lake.layout import Layout, partition_of
from transforms.lake.row_condition import RowCondition
from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA


class SelectedRows:
    """Columns of the current rows that fulfil a condition.

    Rewrites of index files are applied as `index_files.list_index` does, also while they happen: each row
    is read once.

    Attributes:
        schema: schema of the tables, with the descriptions of the columns.
    """

    def __init__(
        self,
        layout: Layout,
        columns: Sequence[str] | None = None,
        condition: RowCondition | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            layout: the lake.
            columns: columns of the index to read, in any order; None reads all.
            condition: that rows fulfil; None reads all.

        Raises:
            UsageError: there is no such column.
        """
        self._layout, self._condition = layout, condition
        self._columns = list(COLUMNS) if columns is None else list(columns)
        for name in self._columns:
            if name not in COLUMNS:
                near = did_you_mean(name, COLUMNS)
                hint = f": did you mean {near!r}?" if near else ""
                raise UsageError(f"the index has no column {name!r}{hint}")
        self.schema = pa.schema([_field(name) for name in self._columns])

    def table(self) -> pa.Table:
        """Return the rows, in order of their files.

        Raises:
            ConditionError: the condition cannot be evaluated for a row.
            DamagedFile: an index file cannot be read.
            OSError: the index cannot be listed.
        """
        tables = read_index(self._layout, lambda files: list(self._read(files)))
        return pa.concat_tables([self.schema.empty_table(), *tables])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches, from a temporary file, so that memory does not grow with the lake.

        The file is in the folder of `TMPDIR`, has no name, and disappears with the iterator.

        Raises:
            ConditionError, DamagedFile, OSError: as `table`.
        """
        with tempfile.TemporaryFile(prefix="dicom-router-") as spool:

            def write(files: list[str]) -> None:
                spool.seek(0)
                spool.truncate()
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                with pa.ipc.new_stream(spool, self.schema, options=options) as stream:
                    for table in self._read(files):
                        stream.write_table(table)

            read_index(self._layout, write)
            spool.seek(0)
            with pa.ipc.open_stream(spool) as stream:
                yield from stream

    def _read(self, files: Sequence[str]) -> Iterator[pa.Table]:
        for uri in files:
            with open_index_file(uri) as file:
                for group in range(file.num_row_groups):
                    tables = self._read_group(file, group, partition_of(uri))
                    yield from (table.cast(self.schema) for table in tables if len(table))

    def _read_group(self, file: pq.ParquetFile, group: int, day: str) -> Iterator[pa.Table]:
        """Yield the selected rows of a row group; without any, only the condition's columns are read."""
        if self._condition is None:
            yield from _read(file, group, self._columns, day)
            return
        found = [
            self._condition.positions(table)
            for table in _read(file, group, self._condition.columns, day)
        ]
        if any(map(len, found)):
            tables = _read(file, group, self._columns, day)
            for positions, table in zip(found, tables, strict=True):
                yield table.take(positions)


def _read(file: pq.ParquetFile, group: int, columns: Sequence[str], day: str) -> Iterator[pa.Table]:
    stored = [name for name in columns if name != PARTITION]
    for table in read_batches(file, stored or ["status"], [group]):
        days = pa.repeat(pa.scalar(day, pa.string()), len(table))
        yield table.append_column(PARTITION, days).select(list(columns))


def _field(name: str) -> pa.Field:
    if name == PARTITION:
        return pa.field(name, pa.string(), metadata={"description": COLUMNS[name]})
    return SCHEMA.field(name)
