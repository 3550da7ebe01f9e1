"""Resolves duplicates among the rows of a batch run and appends them to the index, a segment a shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.choices import REPROCESS_NONE
from transforms.existing_rows import ReadExistingRows
from transforms.lake.append import append_planned
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import ExistingRow, ExistingVersion, hash_of
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow, in_order, pack_rows, to_table, unpack_rows
from transforms.metrics import DistributionName, count_indexed, record_seconds
from transforms.open_lake import EncodedEnd, decode_end
from transforms.shuffle_batching import BatchForShuffleFn

NEW, EXISTING = "new", "existing"
"""Kinds of rows: of this run; of the index, of the same identities. Rows that decide again what has a
current row are left out: they supersede it at the end of the run."""

SLICES: Final = 16
"""Of a shard, by the hash of identities: a batch's rows are of one."""
ROWS_AT_ONCE: Final = 1_024
Batch: TypeAlias = tuple[str, int, bytes]
"""Rows on their way to their shard: their kind, their slice of it, and the rows, encoded."""


@dataclass
class AppendIndexBatch(beam.PTransform):  # type: ignore[misc]
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

    def expand(self, pcolls: dict[str, Any]) -> beam.PCollection[RunCounts]:
        new: list[beam.PCollection[IndexRow]] = list(pcolls["rows"])
        if self.reprocess != REPROCESS_NONE:  # else no row of an existing version comes this far
            new = [self._without_later(pcolls)]
        identities = [
            rows | f"Identities{n}" >> beam.Map(lambda row: row.identity).with_output_types(str)
            for n, rows in enumerate(new)
        ]
        existing = {
            "files": pcolls["files"],
            "identities": identities | "Identities" >> beam.Flatten(),
        } | "Existing" >> ReadExistingRows()
        where = partial(_where, shards=self.shards)
        kinds = [*((NEW, rows) for rows in new), (EXISTING, existing)]
        batches = [
            rows
            | f"Batch{n}"
            >> beam.ParDo(BatchForShuffleFn(where, partial(_encode, kind))).with_output_types(
                tuple[int, tuple[str, int, bytes]]
            )
            for n, (kind, rows) in enumerate(kinds)
        ]
        return (
            batches
            | "Batches" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "ResolveAndAppend"
            >> beam.FlatMap(
                _append,
                pvalue.AsList(pcolls["log_ends"]),
                self.layout,
                self.run_id,
                self.ingest_date,
                self.shards,
            )
            .with_output_types(RunCounts)
        )  # fmt: skip

    def _without_later(self, pcolls: dict[str, Any]) -> beam.PCollection[IndexRow]:
        """Drop rows of versions that have a current row; the journal has them for the end of the run."""
        keyed = (
            pcolls["rows"]
            | "Rows" >> beam.Flatten()
            | "KeyBySource"
            >> beam.Map(lambda row: (row.source_uri, row.packed())).with_output_types(
                tuple[str, bytes]
            )
        )
        return (
            {"rows": keyed, "versions": pcolls["versions"]}
            | "JoinBySource" >> beam.CoGroupByKey()
            | "New" >> beam.FlatMap(_new_rows).with_output_types(Any)
        )


def _append(
    group: tuple[int, Iterable[Batch]],
    log_ends: list[EncodedEnd],
    layout: Layout,
    run_id: str,
    ingest_date: str,
    shards: int,
) -> Iterator[RunCounts]:
    shard, batches = group
    tables: list[pa.Table] = []
    for part in _in_parts(list(batches)):
        resolution = resolve_all(part[NEW], part[EXISTING])
        if resolution.orphans:
            yield RunCounts(orphans=tuple(resolution.orphans))
        if resolution.rows:
            tables.append(to_table(resolution.rows))
            count_indexed(RunCounts.of_rows(resolution.rows))
    if tables:
        started = time.monotonic()
        log = LogShard(shards, shard)
        rows = in_order(pa.concat_tables(tables))
        end = decode_end(log_ends, log)
        segment = append_planned(layout, log, end, rows, run_id=run_id, ingest_date=ingest_date)
        record_seconds(DistributionName.INDEX_MS, time.monotonic() - started)
        yield RunCounts(segments=(segment,))


def _where(row: IndexRow | ExistingRow, shards: int) -> tuple[int, int]:
    rest, shard = divmod(hash_of(row.identity), shards)
    return shard, rest % SLICES


def _encode(kind: str, where: tuple[int, int], rows: Sequence[Any]) -> tuple[int, Batch]:
    shard, part = where
    return shard, (kind, part, ExistingRow.pack(rows) if kind == EXISTING else pack_rows(rows))


def _decode(kind: str, encoded: bytes) -> Sequence[IndexRow | ExistingRow]:
    return ExistingRow.unpack(encoded) if kind == EXISTING else unpack_rows(encoded)


def _new_rows(joined: tuple[str, dict[str, Any]]) -> Iterator[IndexRow]:
    _, found = joined
    existing = {ExistingVersion(*version).source_version for version in found["versions"]}
    for encoded in found["rows"]:
        row = IndexRow.unpacked(encoded)
        if row.source_version not in existing:
            yield row


def _in_parts(batches: Sequence[Batch]) -> Iterator[dict[str, list[Any]]]:
    """Give a shard in up to `SLICES` parts of some `ROWS_AT_ONCE`, an identity's rows in one."""
    parts = min(SLICES, 1 + SHUFFLE_BATCH * len(batches) // ROWS_AT_ONCE)
    for number in range(parts):
        part: dict[str, list[Any]] = {NEW: [], EXISTING: []}
        for kind, slice_number, encoded in batches:
            if slice_number % parts == number:
                part[kind] += _decode(kind, encoded)
        yield part
