"""Read the current decisions of a lake, its objects and their thumbnails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

    from transforms.lake.layout import Layout
    from transforms.lake.schema import IndexRow
    from transforms.lake.select_rows import SelectedRows


class Lake:
    """A lake that exists, for reading; runs may write to it meanwhile.

    Args:
        root: root of the lake: a folder, or a gs:// or s3:// URI as str.

    Raises:
        UsageError: there is no lake.
        OSError: it cannot be opened.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        from pipeline.cli.arguments import existing_lake

        self._layout: Layout = existing_lake(os.fspath(root))

    def __repr__(self) -> str:
        return f"Lake({self._layout.root!r})"

    def decisions(
        self, columns: Sequence[str] | None = None, *, where: str | None = None
    ) -> Decisions:
        """Return the current decisions, one row for each source object.

        Only the columns that are asked for are read, and only from row groups in which a row fulfils the
        condition. Each row is read once, also while a compaction replaces files, and in object stores.

        Args:
            columns: columns of the index, in any order (docs/index-schema.md); None reads all.
            where: condition in SQL over any columns, such as `status = 'routed' AND NOT header_agrees`.

        Raises:
            UsageError: there is no such column, or the condition is not one of SQL.
        """
        from transforms.lake.row_condition import RowCondition
        from transforms.lake.select_rows import SelectedRows

        condition = None if where is None else RowCondition(where)
        return Decisions(SelectedRows(self._layout, columns, condition))

    def rows(self, object_key: str) -> list[IndexRow]:
        """Return the current rows of a source object, one for each of its versions, the latest first.

        Args:
            object_key: as in the index and in messages: 12 hex digits.
        """
        from transforms.lake.find_rows import find_rows

        return find_rows(self._layout, object_key)

    def open_object(self, object_key: str) -> BinaryIO:
        """Open the stored object of a source for reading; the caller closes it.

        `pydicom.dcmread` can read it. It has the bytes of the source; if the object was not copied
        (`placement="index_only"`), it is the source.

        Args:
            object_key: as for `rows`; the latest version is opened.

        Raises:
            LookupError: the lake has no row of it.
            OSError: the object cannot be read.
        """
        from transforms.storage.schemes import storage_of
        from transforms.storage.seekable import open_seekable

        uri = self._layout.absolute(str(self._latest(object_key).object_uri))
        found = storage_of(uri).stat(uri)
        if found is None:
            raise FileNotFoundError(
                f"object {object_key} is missing in {self._layout.root}; run 'dicom-router verify'"
            )
        return open_seekable(found)

    def thumbnail(self, object_key: str) -> bytes | None:
        """Return a small image of an object as WebP, stored or decoded; None if it cannot be decoded.

        Args:
            object_key: as for `open_object`.

        Raises:
            LookupError, OSError: as `open_object`.
        """
        from pipeline.images import thumbnails_of

        row = self._latest(object_key)
        return thumbnails_of(self._layout, [row]).get(str(row.content_sha256))

    def _latest(self, object_key: str) -> IndexRow:
        rows = self.rows(object_key)
        if not rows:
            raise LookupError(
                f"{self._layout.root} has no row of object {object_key}; give the 12 hex digits of "
                "object_key in the index"
            )
        return rows[0]


class Decisions:
    """Current decisions of a lake, read each time they are asked for; see `Lake.decisions`."""

    def __init__(self, rows: SelectedRows) -> None:
        self._rows = rows

    @property
    def schema(self) -> pa.Schema:
        """The schema; its fields have descriptions."""
        return self._rows.schema

    def to_arrow(self) -> pa.Table:
        """Return the rows as a table of Arrow.

        Raises:
            UsageError: the condition cannot be evaluated for a row.
            RuntimeError: an index file is damaged; the message has its name and the remedy.
            OSError: the index cannot be listed.
        """
        return self._rows.table()

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a data frame of pandas; errors are those of `to_arrow`."""
        frame: pandas.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return the rows as a data frame of polars; errors are those of `to_arrow`."""
        import polars

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of Arrow, in memory that does not grow with the lake.

        They come from a temporary file in the folder of `TMPDIR`, which has no name; errors are those of
        `to_arrow`.
        """
        yield from self._rows.batches()
