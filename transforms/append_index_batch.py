"""Settles rows by identity and writes them as Parquet, one file for each shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.existing_rows import ReadExistingRows
from transforms.lake.index_files import ExistingRow, ExistingVersion, hash_of, write_index
from transforms.lake.resolve_duplicates import REPROCESS_NONE, resolve_all
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow, pack_rows, to_table, unpack_rows
from transforms.metrics import DistributionName, count_indexed, record_seconds
from transforms.shuffle_batching import BatchForShuffleFn
from transforms.storage.schemes import storage_of

FRESH, HELD, STALE, LEDGER = "fresh", "held", "stale", "ledger"
"""What meets in a shard: rows of this run; rows that the lake held already, met only after a forced
second look; rows of a killed run that are not taken over; the lake's rows of the same identities."""

SLICES: Final = 16
"""Of a shard, by the hash of identities: a pack's rows are of one."""
PART_ROWS: Final = 1_024
Pack: TypeAlias = tuple[str, int, bytes]
"""Rows on their way to their shard: what they are, their slice of it, and the rows, packed."""


@dataclass
class AppendIndexBatch(beam.PTransform):  # type: ignore[misc]
    """Placed rows, settled by identity, to index files; gives back `RunCounts`s of what stands there.

    Input: a dict with "rows" (several collections), "stale" (rows of a killed run that are not taken
    over), "held" (as of `ReadExistingVersions`) and "files" of the index. All rows of an identity
    belong to one shard, and one shuffle brings them there: a runner may hold every row in memory
    at each, and at a Flatten. So rows are packed where they come from.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[RunCounts]:
        fresh = [(FRESH, rows) for rows in pcolls["rows"]]
        if self.config.reprocess != REPROCESS_NONE:  # else what the lake holds never came this far
            known = (
                {
                    "rows": pcolls["rows"]
                    | "Rows" >> beam.Flatten()
                    | "KeyBySource"
                    >> beam.Map(lambda row: (row.source_uri, row.packed())).with_output_types(
                        tuple[str, bytes]
                    ),
                    "held": pcolls["held"],
                }
                | "JoinBySource" >> beam.CoGroupByKey()
                | "Known"
                >> beam.FlatMap(_parted).with_output_types(Any).with_outputs(HELD, main=FRESH)
            )
            fresh = [(kind, known[kind]) for kind in (FRESH, HELD)]
        parts = [*fresh, (STALE, pcolls["stale"])]
        identities = [
            rows | f"Identities{n}" >> beam.Map(lambda row: row.identity).with_output_types(str)
            for n, (_, rows) in enumerate(parts)
        ]
        ledger = {
            "files": pcolls["files"],
            "identities": identities | "Identities" >> beam.Flatten(),
        } | "Ledger" >> ReadExistingRows()
        shard_of = partial(_where, shards=self.config.index_shards)
        packs = [
            rows
            | f"Pack{n}"
            >> beam.ParDo(BatchForShuffleFn(shard_of, partial(_packed, kind))).with_output_types(
                tuple[int, tuple[str, int, bytes]]
            )
            for n, (kind, rows) in enumerate([*parts, (LEDGER, ledger)])
        ]
        return (
            packs
            | "Packs" >> beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "SettleAndWrite"
            >> beam.FlatMapTuple(lambda shard, packs: _write(shard, packs, self.config))
            .with_output_types(Any)
        )  # fmt: skip


def _where(row: IndexRow | ExistingRow, shards: int) -> tuple[int, int]:
    rest, shard = divmod(hash_of(row.identity), shards)
    return shard, rest % SLICES


def _packed(kind: str, where: tuple[int, int], rows: Sequence[Any]) -> tuple[int, Pack]:
    shard, part = where
    return shard, (kind, part, ExistingRow.pack(rows) if kind == LEDGER else pack_rows(rows))


def _unpacked(kind: str, packed: bytes) -> Sequence[IndexRow | ExistingRow]:
    return ExistingRow.unpack(packed) if kind == LEDGER else unpack_rows(packed)


def _parted(joined: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    _, found = joined
    held: set[ExistingVersion] = set(found["held"])
    for packed in found["rows"]:
        row = IndexRow.unpacked(packed)
        is_ingested = (row.source_version, row.model_id) in held
        yield pvalue.TaggedOutput(HELD, row) if is_ingested else row


def _write(shard: int, packs: Iterable[Pack], config: RouteConfig) -> Iterator[RunCounts]:
    tables: list[pa.Table] = []
    tallies: list[RunCounts] = []
    for part in _in_parts(list(packs)):
        resolved = resolve_all(
            part[FRESH],
            part[LEDGER],
            held=[*part[HELD], *part[STALE]],
            reprocess=config.reprocess,
        )
        for uri in filter(config.layout.holds, resolved.orphans):
            storage_of(uri).remove(uri)
        if part[HELD]:
            yield RunCounts.of_count("unchanged", len(part[HELD]))
        if resolved.rows:
            tables.append(to_table(resolved.rows))
            tallies.append(RunCounts.of_rows(resolved.rows))
    if tables:
        started = time.monotonic()
        write_index(config.layout, config.ingest_date, pa.concat_tables(tables), shard)
        record_seconds(DistributionName.INDEX_MS, time.monotonic() - started)
        tally = RunCounts.sum(tallies)
        count_indexed(tally)
        yield tally


def _in_parts(packs: Sequence[Pack]) -> Iterator[dict[str, list[Any]]]:
    """Give what meets in a shard in up to `SLICES` parts of some `PART_ROWS`, an identity's in one."""
    parts = min(SLICES, 1 + SHUFFLE_BATCH * len(packs) // PART_ROWS)
    for number in range(parts):
        part: dict[str, list[Any]] = {kind: [] for kind in (FRESH, HELD, STALE, LEDGER)}
        for kind, slice_number, packed in packs:
            if slice_number % parts == number:
                part[kind] += _unpacked(kind, packed)
        yield part
