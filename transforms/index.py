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

from transforms.config import RouteConfig
from transforms.lake.index_files import HeldVersion, LedgerRow, hash_of, write_index
from transforms.lake.schema import IndexRow, pack_rows, to_table, unpack_rows
from transforms.lake.settle import REPROCESS_NONE, settle_all
from transforms.ledger import HeldIdentities
from transforms.metrics import Spread, count_settled, record_seconds
from transforms.packs import PACK, PackFn
from transforms.storage.schemes import storage_of
from transforms.tally import RunTally

FRESH, HELD, STALE, LEDGER = "fresh", "held", "stale", "ledger"
"""What meets in a shard: rows of this run; rows that the lake held already, met only after a forced
second look; rows of a killed run that are not taken over; the lake's rows of the same identities."""

SLICES: Final = 16
"""Of a shard, by the hash of identities: a pack's rows are of one."""
PART_ROWS: Final = 1_024
Pack: TypeAlias = tuple[str, int, bytes]
"""Rows on their way to their shard: what they are, their slice of it, and the rows, packed."""


@dataclass
class WriteIndex(beam.PTransform):  # type: ignore[misc]
    """Placed rows, settled by identity, to index files; gives back `RunTally`s of what stands there.

    Input: a dict with "rows" (several collections), "stale" (rows of a killed run that are not taken
    over), "held" (as of `HeldSources`) and "files" of the index. All rows of an identity belong to one
    shard, and one shuffle brings them there: a runner may hold every row in memory at each, and at a
    Flatten. So rows are packed where they come from.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[RunTally]:
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
        } | "Ledger" >> HeldIdentities()
        shard_of = partial(_where, shards=self.config.index_shards)
        packs = [
            rows
            | f"Pack{n}"
            >> beam.ParDo(PackFn(shard_of, partial(_packed, kind))).with_output_types(
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


def _where(row: IndexRow | LedgerRow, shards: int) -> tuple[int, int]:
    rest, shard = divmod(hash_of(row.identity), shards)
    return shard, rest % SLICES


def _packed(kind: str, where: tuple[int, int], rows: Sequence[Any]) -> tuple[int, Pack]:
    shard, part = where
    return shard, (kind, part, LedgerRow.pack(rows) if kind == LEDGER else pack_rows(rows))


def _unpacked(kind: str, packed: bytes) -> Sequence[IndexRow | LedgerRow]:
    return LedgerRow.unpack(packed) if kind == LEDGER else unpack_rows(packed)


def _parted(joined: tuple[str, dict[str, Any]]) -> Iterator[Any]:
    _, found = joined
    held: set[HeldVersion] = set(found["held"])
    for packed in found["rows"]:
        row = IndexRow.unpacked(packed)
        is_held = (row.source_version, row.model_id) in held
        yield pvalue.TaggedOutput(HELD, row) if is_held else row


def _write(shard: int, packs: Iterable[Pack], config: RouteConfig) -> Iterator[RunTally]:
    tables: list[pa.Table] = []
    tallies: list[RunTally] = []
    for part in _in_parts(list(packs)):
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


def _in_parts(packs: Sequence[Pack]) -> Iterator[dict[str, list[Any]]]:
    """Give what meets in a shard in up to `SLICES` parts of some `PART_ROWS`, an identity's in one."""
    parts = min(SLICES, 1 + PACK * len(packs) // PART_ROWS)
    for number in range(parts):
        part: dict[str, list[Any]] = {kind: [] for kind in (FRESH, HELD, STALE, LEDGER)}
        for kind, slice_number, packed in packs:
            if slice_number % parts == number:
                part[kind] += _unpacked(kind, packed)
        yield part
