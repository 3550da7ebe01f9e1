"""Read manifests: lists of paths and URIs in text, CSV or Parquet files, or on standard input."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import DoOutputsTuple, PBegin

from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import MANIFEST_LOOKUP_BATCH
from transforms.core.errors import UsageError
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.lake.files import read_bytes
from transforms.lake.index_files import parquet_file
from transforms.storage.schemes import absolute, storage_of, uri_problem

STANDARD_INPUT: Final = "-"
COLUMNS: Final = ("uri", "source_uri", "path", "file")
"""Accepted names of the URI column in CSV and Parquet, in order of precedence."""
LOOKUP_THREADS: Final = 16
"""Number of parallel lookups, which are limited by the latency of a store."""


@dataclass
class ReadManifests(beam.PTransform[PBegin, DoOutputsTuple]):
    """Read manifests. Returns references in `REFS`, and listed objects that do not exist in `FAILED`."""

    config: RouteConfig

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        piped = read_standard_input() if STANDARD_INPUT in self.config.inputs else []
        manifests = [uri for uri in self.config.inputs if uri != STANDARD_INPUT]
        listed = (
            pbegin
            | "Manifests" >> beam.Create(manifests)
            | "Read" >> beam.FlatMap(read_manifest).with_output_types(str)
        )
        from_stdin = pbegin | "StandardInput" >> beam.Create(piped).with_output_types(str)
        outputs: DoOutputsTuple = (
            (listed, from_stdin)
            | "Flatten" >> beam.Flatten()
            | "Reshuffle" >> beam.Reshuffle()
            | "Batch"
            >> beam.BatchElements(
                min_batch_size=MANIFEST_LOOKUP_BATCH, max_batch_size=MANIFEST_LOOKUP_BATCH
            )
            | "LookUp"
            >> beam.FlatMap(_look_up, self.config)
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: str})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def read_manifest(uri: str) -> Iterator[str]:
    """Yield the URIs in one manifest; local paths become absolute.

    A text manifest has one URI per line. A CSV file with a header or a Parquet file, recognized by the
    suffix, has a column with a name in `COLUMNS`.

    Raises:
        UsageError: the manifest cannot be read or has no such column.
    """
    try:
        if uri.lower().endswith(".parquet"):
            yield from map(absolute, _uris_in_parquet(uri))
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
    """Return the URIs on standard input, one per line."""
    return [absolute(line) for line in _lines(sys.stdin)]


def _uris_in_parquet(uri: str) -> Iterator[str]:
    with parquet_file(uri) as file:
        column = _column(uri, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[column]):
            yield from filter(None, batch[column].to_pylist())


def _column(uri: str, names: Sequence[str]) -> str:
    for column in COLUMNS:
        if column in names:
            return column
    raise UsageError(f"manifest {uri} has no column named {', '.join(COLUMNS)}")


def _lines(stream: Iterable[str]) -> Iterator[str]:
    for line in stream:
        if uri := line.rstrip("\r\n"):
            yield uri


def _look_up(uris: Sequence[str], config: RouteConfig) -> Iterator[SourceOutput]:
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        for uri, found in zip(uris, pool.map(_stat, uris), strict=True):
            yield to_output(found, uri, config)


def _stat(uri: str) -> ObjectRef | OSError:
    if problem := uri_problem(uri):
        return OSError(problem)
    try:
        found = storage_of(uri).stat(uri)
    except OSError as error:
        return error
    except ValueError as error:  # not a valid name in this storage
        return OSError(type(error).__name__)
    if found is None:
        return FileNotFoundError("in the manifest, but does not exist")
    return ObjectRef.of(found)
