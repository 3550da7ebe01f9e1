"""The manifest of exported images: a row for each, as CSV or Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.csv_cells import escape_formula
from pipeline.export.columns import exported_columns
from pipeline.export.options import PARQUET, WEBDATASET, ExportOptions
from pipeline.export.output import Output
from transforms.lake.schema import SCHEMA

_TEXT: Final = pa.string()
FIRST_COLUMNS: Final = {
    "path": ("Image, or the tar file with it, relative to the folder of the export", _TEXT),
    "label": ("Body part that was decided; empty if the row is not routed", _TEXT),
    "split": ("train, val or test", _TEXT),
    "source": ("Name of the data set", _TEXT),
    "group": ("Number of the patient, or of the study of an unknown patient", _TEXT),
    "license": ("Licence of the image", _TEXT),
    "age": ("Age of the patient, years", pa.float32()),
    "region": ("Anatomic region finer than the label, or empty", _TEXT),
    "sha256": ("sha256 of the image file, hex", _TEXT),
    "size_bytes": ("Size of the image file", pa.int64()),
    "thumbnail": ("Small image, relative to the folder of the export, or null", _TEXT),
}
"""Columns of a manifest that are not of the index; `train` reads those up to region."""
MEMBER: Final = ("Name of the image in its tar file", _TEXT)


class Manifest(Protocol):
    """Writes rows of a manifest."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows with the values of `manifest_schema`."""


def manifest_schema(options: ExportOptions) -> pa.Schema:
    """Return the columns of the manifest of an export, with their descriptions."""
    first = dict(FIRST_COLUMNS)
    if options.to == WEBDATASET:
        del first["thumbnail"]
        first["member"] = MEMBER
    fields = [
        pa.field(name, kind, metadata={"description": text}) for name, (text, kind) in first.items()
    ]
    return pa.schema([*fields, *(SCHEMA.field(name) for name in exported_columns(options))])


@contextlib.contextmanager
def open_manifest(output: Output, options: ExportOptions) -> Iterator[Manifest]:
    """Open the manifest of an export for writing; it has its name when the block ends."""
    schema = manifest_schema(options)
    with output.open(f"manifest.{options.manifest}") as file:
        if options.manifest == PARQUET:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                yield _Parquet(writer, schema)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            yield _Csv(text, schema)
            text.detach()


class _Csv:
    def __init__(self, file: IO[str], schema: pa.Schema) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._names = schema.names
        self._writer.writerow(self._names)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._writer.writerows([_cell(row.get(name)) for name in self._names] for row in rows)


class _Parquet:
    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        columns = [[row.get(name) for row in rows] for name in self._schema.names]
        arrays = [
            pa.array([list(v.items()) if isinstance(v, dict) else v for v in values], column.type)
            for values, column in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    return escape_formula(value) if isinstance(value, str) else str(value)
