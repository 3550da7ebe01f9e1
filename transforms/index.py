"""Settles rows by identity and writes them as Parquet, one file for each shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import HeldVersion, LedgerRow, hash_of, write_index
from transforms.lake.schema import IndexRow, to_table
from transforms.lake.settle import REPROCESS_NONE, settle_all
from transforms.ledger import HeldIdentities
from transforms.metrics import Spread, count_settled, record_seconds
from transforms.storage.schemes import storage_of
from transforms.tally import RunTally

FRESH, HELD, STALE, LEDGER = "fresh", "held", "stale", "ledger"
"""What meets in a shard: rows of this run; rows that the lake held already, met only after a forced
second look; rows of a killed run that are not taken over; the lake's rows of the same identities."""

PART_ROWS: Final = 4_096
Hashed: TypeAlias = "tuple[int, bytes | LedgerRow]"
"""A row on its way to its shard: what the shard left of its identity's hash, and the row, packed."""


@dataclass
class WriteIndex(beam.PTransform):  # type: ignore[misc]
    """Placed rows, settled by identity, to index files; gives back `RunTally`s of what stands there.

    Input: a dict with "rows", "stale" (rows of a killed run that are not taken over), "held" (as of
    `HeldSources`) and "files" of the index. All rows of an identity belong to one shard, and one
    shuffle brings them there: a runner may hold every row in memory at each.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[RunTally]:
        parts = {FRESH: pcolls["rows"], STALE: pcolls["stale"]}
        if self.config.reprocess != REPROCESS_NONE:  # else what the lake holds never came this far
            known = (
                {
                    "rows": pcolls["rows"]
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
            parts |= {FRESH: known[FRESH], HELD: known[HELD]}
        identities = [
            rows | f"Identities_{part}" >> beam.Map(lambda row: row.identity).with_output_types(str)
            for part, rows in parts.items()
        ]
        ledger = {
            "files": pcolls["files"],
            "identities": identities | "Identities" >> beam.Flatten(),
        } | "Ledger" >> HeldIdentities()
        shards = self.config.index_shards
        return (
            {part: rows | f"Shard_{part}" >> _key_by_shard(shards) for part, rows in
             {**parts, LEDGER: ledger}.items()}
            | "GroupByShard" >> beam.CoGroupByKey()
            | "SettleAndWrite"
            >> beam.FlatMapTuple(lambda shard, found: _write(shard, found, self.config))
            .with_output_types(Any)
        )  # fmt: skip


def _key_by_shard(shards: int) -> beam.PTransform:
    return beam.Map(_keyed, shards).with_output_types(tuple[int, tuple[int, Any]])


def _keyed(row: IndexRow | LedgerRow, shards: int) -> tuple[int, Hashed]:
    rest, shard = divmod(hash_of(row.identity), shards)
    return shard, (rest % 2**32, row.packed() if isinstance(row, IndexRow) else row)


def _parted(joined: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    _, found = joined
    held: set[HeldVersion] = set(found["held"])
    for packed in found["rows"]:
        row = IndexRow.unpacked(packed)
        is_held = (row.source_version, row.model_id) in held
        yield pvalue.TaggedOutput(HELD, row) if is_held else row


def _write(
    shard: int, found: dict[str, Iterable[Hashed]], config: RouteConfig
) -> Iterator[RunTally]:
    tables: list[pa.Table] = []
    tallies: list[RunTally] = []
    for part in _in_parts(found):
        settled = settle_all(
            part[FRESH],
            part[LEDGER],
            held=[*part[HELD], *part[STALE]],
            reprocess=config.reprocess,
        )
        for uri in filter(config.layout.holds, settled.strays):
            storage_of(uri).remove(uri)
        if part[HELD]:
            yield RunTally.of_count("unchanged", len(part[HELD]))
        if settled.rows:
            tables.append(to_table(settled.rows))
            tallies.append(RunTally.of_rows(settled.rows))
    if tables:
        started = time.monotonic()
        write_index(config.layout, config.ingest_date, pa.concat_tables(tables), shard)
        record_seconds(Spread.INDEX_MS, time.monotonic() - started)
        tally = RunTally.sum(tallies)
        count_settled(tally)
        yield tally


def _in_parts(found: dict[str, Iterable[Hashed]]) -> Iterator[dict[str, list[Any]]]:
    """Give what meets in a shard in parts of some `PART_ROWS`; rows of an identity are in one."""
    packed = {name: list(found.get(name, ())) for name in (FRESH, HELD, STALE, LEDGER)}
    parts = 1 + sum(map(len, packed.values())) // PART_ROWS
    numbered: list[dict[str, list[Any]]] = [{name: [] for name in packed} for _ in range(parts)]
    for name, rows in packed.items():
        for number, row in rows:
            numbered[number % parts][name].append(row)
    packed.clear()
    while numbered:
        yield {
            name: [IndexRow.unpacked(row) if isinstance(row, bytes) else row for row in rows]
            for name, rows in numbered.pop().items()
        }
