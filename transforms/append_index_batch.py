"""Resolves duplicates among the rows of a batch run and appends them to the index, a segment a shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList, PCollection

from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.choices import REPROCESS_NONE
from transforms.core.record_batch import RecordBatch
from transforms.existing_rows import ReadExistingRows
from transforms.lake.append import append_after
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import ExistingRow, ExistingVersion, hash_of
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow, sort_rows, to_table
from transforms.metrics import DistributionName, count_indexed, record_seconds
from transforms.open_lake import EncodedEnd, decode_end
from transforms.shuffle_batching import BatchForShuffleFn, key_of_source, records_of

NEW, EXISTING = "new", "existing"
"""Kinds of rows: of this run; of the index, of the same identities. Rows that decide again what has a
current row are left out: they supersede it at the end of the run."""

SLICES: Final = 16
"""Of a shard, by the hash of identities: a batch's rows are of one."""
ROWS_AT_ONCE: Final = 1_024


@dataclass
class AppendIndexBatch(beam.PTransform[dict[str, Any], PCollection[RunCounts]]):
    """Placed rows, resolved by identity, to segments of the index; gives back `RunCounts` that name them.

    Input: a dict with "rows" (several collections), "versions" (as of `ReadExistingVersions`), "files" of
    the index and "log_ends" (as of `OpenLake`). All rows of an identity belong to one shard, and one
    shuffle brings them there: a runner may hold every row in memory at each, and at a Flatten. So rows
    are batched where they come from.

    Attributes:
        layout: Layout of the lake.
        run_id: Id of the run.
        ingest_date: Partition that the rows are appended to.
        shards: Number of logs.
        reprocess: none, model, policy or all.
    """

    layout: Layout
    run_id: str
    ingest_date: str
    shards: int
    reprocess: str

    def expand(self, pcolls: dict[str, Any]) -> PCollection[RunCounts]:
        new: list[PCollection[IndexRow]] = list(pcolls["rows"])
        if self.reprocess != REPROCESS_NONE:  # else no row of an existing version comes this far
            new = [_without_later(new, pcolls["versions"])]
        identities = [
            rows | f"Identities{n}" >> beam.Map(lambda row: row.identity).with_output_types(str)
            for n, rows in enumerate(new)
        ]
        existing = {
            "files": pcolls["files"],
            "identities": identities | "Identities" >> beam.Flatten(),
        } | "Existing" >> ReadExistingRows()
        place_of = partial(_place_of, shards=self.shards)
        batches = [
            rows | f"Batch{n}" >> beam.ParDo(BatchForShuffleFn(IndexRow, NEW, place_of))
            for n, rows in enumerate(new)
        ]
        batches.append(
            existing
            | f"Batch{len(new)}" >> beam.ParDo(BatchForShuffleFn(ExistingRow, EXISTING, place_of))
        )
        counts: PCollection[RunCounts] = (
            batches
            | "Batches" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "ResolveAndAppend"
            >> beam.FlatMap(
                _append,
                AsList(pcolls["log_ends"]),
                self.layout,
                self.run_id,
                self.ingest_date,
                self.shards,
            )
            .with_output_types(RunCounts)
        )  # fmt: skip
        return counts


def _without_later(
    rows: Sequence[PCollection[IndexRow]], versions: PCollection[ExistingVersion]
) -> PCollection[IndexRow]:
    """Drop rows of versions that have a current row; the journal has them for the end of the run."""
    batch_rows = BatchForShuffleFn(IndexRow, NEW, lambda row: key_of_source(row.source_uri))
    batch_versions = BatchForShuffleFn(
        ExistingVersion, EXISTING, lambda version: key_of_source(version.source_uri)
    )
    new: PCollection[IndexRow] = (
        (
            rows | "Rows" >> beam.Flatten() | "BatchRows" >> beam.ParDo(batch_rows),
            versions | "BatchVersions" >> beam.ParDo(batch_versions),
        )
        | "BatchesOfSources" >> beam.Flatten()
        | "GroupBySource" >> beam.GroupByKey()
        | "New" >> beam.FlatMap(_new_rows).with_output_types(IndexRow)
    )
    return new


def _append(
    group: tuple[int, Iterable[RecordBatch]],
    log_ends: list[EncodedEnd],
    layout: Layout,
    run_id: str,
    ingest_date: str,
    shards: int,
) -> Iterator[RunCounts]:
    shard, batches = group
    tables: list[pa.Table] = []
    for new, existing in _in_parts(list(batches)):
        resolution = resolve_all(new, existing)
        if resolution.orphans:
            yield RunCounts(orphans=tuple(resolution.orphans))
        if resolution.rows:
            table = to_table(resolution.rows)
            count_indexed(RunCounts.of_table(table))
            tables.append(table)
    if tables:
        started = time.monotonic()
        log = LogShard(shards, shard)
        rows = sort_rows(pa.concat_tables(tables))
        end = decode_end(log_ends, log)
        segment = append_after(layout, log, end, rows, run_id=run_id, ingest_date=ingest_date)
        record_seconds(DistributionName.INDEX_MS, time.monotonic() - started)
        yield RunCounts(segments=(segment,))


def _place_of(row: IndexRow | ExistingRow, shards: int) -> tuple[int, int]:
    rest, shard = divmod(hash_of(row.identity), shards)
    return shard, rest % SLICES


def _new_rows(group: tuple[int, Iterable[RecordBatch]]) -> Iterator[IndexRow]:
    batches = list(group[1])
    versions = {
        (version.source_uri, version.source_version)
        for version in records_of(batches, EXISTING, ExistingVersion)
    }
    for row in records_of(batches, NEW, IndexRow):
        if (row.source_uri, row.source_version) not in versions:
            yield row


def _in_parts(
    batches: Sequence[RecordBatch],
) -> Iterator[tuple[list[IndexRow], list[ExistingRow]]]:
    """Give a shard in up to `SLICES` parts of some `ROWS_AT_ONCE`, an identity's rows in one."""
    parts = min(SLICES, 1 + SHUFFLE_BATCH * len(batches) // ROWS_AT_ONCE)
    for number in range(parts):
        part = [batch for batch in batches if batch.part % parts == number]
        yield [*records_of(part, NEW, IndexRow)], [*records_of(part, EXISTING, ExistingRow)]
