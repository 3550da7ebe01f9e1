"""Settles rows by identity and writes them as Parquet, one file for each shard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import HeldVersion, shard_of, write_index
from transforms.lake.schema import IndexRow
from transforms.lake.settle import REPROCESS_NONE, settle
from transforms.ledger import HeldIdentities
from transforms.metrics import Spread, count_settled, record_seconds
from transforms.storage.schemes import storage_of
from transforms.tally import RunTally

UNCHANGED_ROWS = "unchanged_rows"
"""Tag of the rows that the lake held already, met only after a forced second look."""


FRESH, HELD, STALE = "fresh", "held", "stale"


@dataclass
class SettleRows(beam.PTransform):  # type: ignore[misc]
    """Placed rows to settled rows, and `UNCHANGED_ROWS`.

    Input: a dict with "rows", "stale" (rows of a killed run that are not taken over), "held" (as of
    `HeldSources`) and "files" of the index.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        rows = pcolls["rows"]
        if self.config.reprocess == REPROCESS_NONE:  # what the lake holds never came this far
            marked = rows | "MarkFresh" >> _mark(FRESH)
        else:
            marked = (
                {
                    "rows": rows | "KeyBySource" >> beam.Map(lambda row: (row.source_uri, row)),
                    "held": pcolls["held"],
                }
                | "JoinBySource" >> beam.CoGroupByKey()
                | "MarkHeld" >> beam.FlatMap(_mark_held).with_output_types(Any)
            )
        everything = (
            marked,
            pcolls["stale"] | "MarkStale" >> _mark(STALE),
        ) | "Everything" >> beam.Flatten()
        keyed = everything | "KeyByIdentity" >> beam.Map(
            lambda marked: (marked[0].identity, marked)
        ).with_output_types(tuple[str, Any])
        ledger = {
            "files": pcolls["files"],
            "identities": keyed | "Identities" >> beam.Keys(),
        } | "Ledger" >> HeldIdentities()
        return (
            {"rows": keyed, "ledger": ledger}
            | "JoinByIdentity" >> beam.CoGroupByKey()
            | "Settle"
            >> beam.FlatMap(_settle, self.config)
            .with_output_types(Any)
            .with_outputs(UNCHANGED_ROWS, main="rows")
        )


@dataclass
class WriteIndex(beam.PTransform):  # type: ignore[misc]
    """Settled rows to index files; gives back a `RunTally` of what now stands in the index."""

    config: RouteConfig

    def expand(self, rows: beam.PCollection[IndexRow]) -> beam.PCollection[RunTally]:
        config = self.config
        return (
            rows
            | "KeyByShard"
            >> beam.Map(lambda row: (shard_of(row.identity, config.index_shards), row))
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteParquet"
            >> beam.MapTuple(lambda shard, group: _write(shard, group, config)).with_output_types(
                Any
            )
        )


def _mark(mark: str) -> beam.PTransform:
    return beam.Map(lambda row: (row, mark)).with_output_types(Any)


def _mark_held(joined: tuple[str, dict[str, Any]]) -> Iterator[tuple[IndexRow, str]]:
    _, found = joined
    held: set[HeldVersion] = set(found["held"])
    for row in found["rows"]:
        yield row, HELD if (row.source_version, row.model_id) in held else FRESH


def _settle(joined: tuple[str, dict[str, Any]], config: RouteConfig) -> Iterator[Any]:
    _, found = joined
    marked = list(found["rows"])
    rows = [row for row, mark in marked if mark == FRESH]
    others = [row for row, mark in marked if mark != FRESH]
    settled = settle(rows, list(found["ledger"]), held=others, reprocess=config.reprocess)
    for uri in filter(config.layout.holds, settled.strays):
        storage_of(uri).remove(uri)
    for row, mark in marked:
        if mark == HELD:
            yield pvalue.TaggedOutput(UNCHANGED_ROWS, row)
    yield from settled.rows


def _write(shard: int, rows: Iterable[IndexRow], config: RouteConfig) -> RunTally:
    whole, started = list(rows), time.monotonic()
    write_index(config.layout, config.ingest_date, whole, shard)
    record_seconds(Spread.INDEX_MS, time.monotonic() - started)
    tally = RunTally.of_rows(whole)
    count_settled(tally)
    return tally
