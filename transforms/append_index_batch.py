"""Resolve duplicates among the rows of a batch run, and append one segment per shard to the index."""

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
from transforms.lake.existing_rows import ExistingRow, ExistingVersion
from transforms.lake.index_files import hash_of
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow, sort_rows, to_table
from transforms.metrics import DistributionName, count_indexed, record_seconds
from transforms.open_lake import EncodedEnd, decode_end
from transforms.shuffle_batching import BatchForShuffleFn, ShuffleKey, key_of_source, records_of

NEW, EXISTING = "new", "existing"
"""Kinds of batches: rows of this run, and existing rows."""

MAX_PARTS: Final = 16
"""Number of parts into which identities are hashed within a shard; a batch has rows of one part."""
PART_ROWS: Final = 1_024
"""Approximate number of rows of a shard that are resolved together."""


@dataclass
class AppendIndexBatch(beam.PTransform[dict[str, Any], PCollection[RunCounts]]):
    """Resolve duplicates among placed rows and append them to the index.

    Takes a dict with "rows" (several collections), "versions" (of `ReadExistingVersions`), and "files"
    and "log_ends" (of `OpenLake`). Returns `RunCounts` with segments and orphans. Rows of versions that
    have a current row are ignored: they supersede it at the end of the run.

    All rows of an identity belong to one shard, and one shuffle brings them together. Rows are batched
    before it, since a runner may hold all its elements in memory, and those of a Flatten.

    Attributes:
        layout: Layout of the lake.
        run_id: Id of the run.
        ingest_date: Partition to append to, YYYY-MM-DD.
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
        if self.reprocess != REPROCESS_NONE:  # otherwise existing versions are filtered out earlier
            new = [_without_existing(new, pcolls["versions"])]
        identities = [
            rows | f"Identities{n}" >> beam.Map(lambda row: row.identity).with_output_types(str)
            for n, rows in enumerate(new)
        ]
        existing = {
            "files": pcolls["files"],
            "identities": identities | "Identities" >> beam.Flatten(),
        } | "Existing" >> ReadExistingRows()
        key_of = partial(_shuffle_key, shards=self.shards)
        batches = [
            rows | f"Batch{n}" >> beam.ParDo(BatchForShuffleFn(IndexRow, NEW, key_of))
            for n, rows in enumerate(new)
        ]
        batches.append(
            existing
            | f"Batch{len(new)}" >> beam.ParDo(BatchForShuffleFn(ExistingRow, EXISTING, key_of))
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


def _without_existing(
    rows: Sequence[PCollection[IndexRow]], versions: PCollection[ExistingVersion]
) -> PCollection[IndexRow]:
    """Drop rows of versions that have a current row; `FinishRun` reads them from the journal."""
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
    """Append the rows of one shard; yield the segment and the orphans."""
    shard, batches = group
    tables: list[pa.Table] = []
    for new, existing in _parts(list(batches)):
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


def _shuffle_key(row: IndexRow | ExistingRow, shards: int) -> ShuffleKey:
    quotient, shard = divmod(hash_of(row.identity), shards)
    return shard, quotient % MAX_PARTS


def _new_rows(group: tuple[int, Iterable[RecordBatch]]) -> Iterator[IndexRow]:
    batches = list(group[1])
    existing = {version.version_key for version in records_of(batches, EXISTING, ExistingVersion)}
    for row in records_of(batches, NEW, IndexRow):
        if row.version_key not in existing:
            yield row


def _parts(
    batches: Sequence[RecordBatch],
) -> Iterator[tuple[list[IndexRow], list[ExistingRow]]]:
    """Yield new and existing rows of a shard in parts; all rows of an identity are in the same part."""
    parts = min(MAX_PARTS, 1 + SHUFFLE_BATCH * len(batches) // PART_ROWS)
    for number in range(parts):
        part = [batch for batch in batches if batch.part % parts == number]
        yield [*records_of(part, NEW, IndexRow)], [*records_of(part, EXISTING, ExistingRow)]
