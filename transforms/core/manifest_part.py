"""Parts of manifests: what a worker reads of one file that lists objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TEXT: Final = "text"
CSV: Final = "csv"
PARQUET: Final = "parquet"

LIST: Final = "list"
S3_INVENTORY: Final = "s3"
GCS_INVENTORY: Final = "gcs"
AZURE_INVENTORY: Final = "azure"


@dataclass(frozen=True)
class ManifestPart:
    """A part of a file with entries, which can be read without the parts before it.

    Attributes:
        number: number of the input, from 1.
        uri: the file; "" for standard input.
        version: its version.
        size: its size in bytes.
        format: text, csv or parquet.
        kind: list (the column is a URI or path), s3, gcs or azure (inventories).
        columns: names of the columns of a CSV file; a text file has none, a Parquet file its own.
        delimiter: of a CSV file.
        encoding: of a text or CSV file: utf-8, utf-16 or utf-32, with its byte order.
        start: first byte, or the row group of a Parquet file.
        end: byte after the last, or -1 for the rest.
        line: number of the first line or row, from 1.
        data: compressed lines of standard input.
        problem: why the file cannot be read, or "".
    """

    number: int
    uri: str
    version: str
    size: int
    format: str
    kind: str = LIST
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    encoding: str = "utf-8"
    start: int = 0
    end: int = -1
    line: int = 1
    data: bytes = b""
    problem: str = ""
