"""Takes objects from manifests: lists of paths and URIs in text, CSV or Parquet, or standard input."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from pipeline.sources.discovered import REFS, discovered
from transforms.config.route_config import RouteConfig
from transforms.core.errors import UsageError
from transforms.core.object_ref import FAILED, ObjectRef
from transforms.lake.files import read_bytes
from transforms.lake.index_files import parquet_file
from transforms.storage.schemes import absolute, storage_of, uri_problem

STANDARD_INPUT: Final = "-"
COLUMNS: Final = ("uri", "source_uri", "path", "file")
"""Names of the column that holds the URIs, in CSV and Parquet; the first that there is counts."""
LOOK_UPS: Final = 64
"""Objects that are looked up in one bundle's step, in as many threads as make sense for a store."""
THREADS: Final = 16


@dataclass
class ReadManifests(beam.PTransform):  # type: ignore[misc]
    """Manifests to references in `REFS`, and `FAILED` for what they name and is not there."""

    config: RouteConfig

    def expand(self, pbegin: pvalue.PBegin) -> pvalue.DoOutputsTuple:
        given = read_standard_input() if STANDARD_INPUT in self.config.inputs else []
        files = [uri for uri in self.config.inputs if uri != STANDARD_INPUT]
        listed = (
            pbegin
            | "Manifests" >> beam.Create(files)
            | "Read" >> beam.FlatMap(read_manifest).with_output_types(str)
        )
        piped = pbegin | "StandardInput" >> beam.Create(given).with_output_types(str)
        return (
            (listed, piped)
            | "Both" >> beam.Flatten()
            | "Spread" >> beam.Reshuffle()
            | "Batch" >> beam.BatchElements(min_batch_size=LOOK_UPS, max_batch_size=LOOK_UPS)
            | "LookUp"
            >> beam.FlatMap(_look_up, self.config)
            .with_output_types(Any)
            .with_outputs(FAILED, main=REFS)
        )


def read_manifest(uri: str) -> Iterator[str]:
    """Read the URIs that one manifest names; local paths become absolute.

    Text has one to a line. CSV and Parquet, told by their suffix, have a column of one of the names
    in `COLUMNS`; a CSV file needs a header.

    Raises:
        UsageError: it cannot be read, or has no such column.
    """
    try:
        if uri.lower().endswith(".parquet"):
            yield from map(absolute, _of_parquet(uri))
            return
        text = io.StringIO(read_bytes(uri).decode("utf-8-sig"), newline="")
    except (OSError, ValueError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"manifest {uri} cannot be read ({why})") from error
    if uri.lower().endswith(".csv"):
        rows = csv.DictReader(text)
        column = _column(uri, rows.fieldnames or ())
        yield from (absolute(row[column]) for row in rows if row[column])
    else:
        yield from map(absolute, _lines(text))


def read_standard_input() -> list[str]:
    """Return the URIs on standard input, one to a line."""
    return [absolute(line) for line in _lines(sys.stdin)]


def _of_parquet(uri: str) -> Iterator[str]:
    with parquet_file(uri) as file:
        column = _column(uri, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[column]):
            yield from filter(None, batch[column].to_pylist())


def _column(uri: str, names: Sequence[str]) -> str:
    for column in COLUMNS:
        if column in names:
            return column
    raise UsageError(f"manifest {uri} has no column named {', '.join(COLUMNS)}")


def _lines(stream: Any) -> Iterator[str]:
    for line in stream:
        if uri := line.rstrip("\r\n"):
            yield uri


def _look_up(uris: Sequence[str], config: RouteConfig) -> Iterator[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        for uri, found in zip(uris, pool.map(_find, uris), strict=True):
            yield discovered(found, uri, config)


def _find(uri: str) -> ObjectRef | OSError:
    if why := uri_problem(uri):
        return OSError(why)
    try:
        found = storage_of(uri).stat(uri)
    except OSError as error:
        return error
    except ValueError as error:  # a name that the place cannot have
        return OSError(type(error).__name__)
    if found is None:
        return FileNotFoundError("named in a manifest, and not there")
    return ObjectRef.of(found)
