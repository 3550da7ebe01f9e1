"""Joins references with the lake's index and journal: what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import LedgerRow
from transforms.lake.journal import JournalRow, taken_over
from transforms.lake.layout import Layout
from transforms.lake.settle import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE
from transforms.metrics import Count, count
from transforms.refs import ObjectRef

UNCHANGED, RECOVERED, ALONE, STALE = "unchanged", "recovered", "alone", "stale"
"""Tags of `SkipHeld`: references that the lake holds; rows taken over from the journal; such rows
whose source is no longer among the references; journaled rows that only tell what was placed."""


@dataclass
class ReadLake(beam.PTransform):  # type: ignore[misc]
    """What the lake says: its index as `LedgerRow`, or its journal as `JournalRow`."""

    layout: Layout
    list_files: Callable[[Layout], list[str]]
    read_file: Callable[[str], Iterator[Any]]

    def expand(self, pbegin: pvalue.PBegin) -> beam.PCollection[Any]:
        list_files, read_file = self.list_files, self.read_file
        return (
            pbegin
            | "Lake" >> beam.Create([self.layout])
            | "List" >> beam.FlatMap(lambda lake: list_files(lake)).with_output_types(Any)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(lambda uri: read_file(uri)).with_output_types(Any)
        )


@dataclass
class SkipHeld(beam.PTransform):  # type: ignore[misc]
    """Leaves the references that need work; see the tags for what becomes of the others.

    Input: a dict with "refs", "ledger" and "journal".
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        config, decided_by = self.config, self.config.decided_by()
        return (
            {
                "refs": pcolls["refs"] | "KeyRefs" >> beam.Map(lambda r: (r.uri, r)),
                "ledger": pcolls["ledger"] | "KeyLedger" >> beam.Map(lambda k: (k.source_uri, k)),
                "journal": pcolls["journal"]
                | "KeyJournal" >> beam.Map(lambda j: (j.row.source_uri, j)),
            }
            | "JoinBySource" >> beam.CoGroupByKey()
            | "SkipHeld"
            >> beam.FlatMap(lambda joined: _sorted_out(joined[1], config, decided_by))
            .with_output_types(Any)
            .with_outputs(UNCHANGED, RECOVERED, ALONE, STALE, main="refs")
        )


def is_held(ref: ObjectRef, known: Iterable[LedgerRow], reprocess: str, model_id: str) -> bool:
    """Whether a reference needs no work.

    With reprocess "model", what another model decided is decided again; rows that no model decided
    (quarantined, not_xray) stand.
    """
    if reprocess == REPROCESS_ALL:
        return False
    models = {k.model_id for k in known if k.source_version == ref.version}
    if reprocess == REPROCESS_MODEL:
        return bool(models & {model_id, None})
    assert reprocess == REPROCESS_NONE
    return bool(models)


def _sorted_out(
    found: dict[str, Any], config: RouteConfig, decided_by: str
) -> Iterator[ObjectRef | pvalue.TaggedOutput]:
    known: list[LedgerRow] = list(found["ledger"])
    indexed = {(k.source_version, k.model_id) for k in known}
    usable: dict[str, JournalRow] = {}
    for entry in sorted(found["journal"], key=lambda j: (j.row.source_version, j.decided_by)):
        row = entry.row
        is_indexed = (row.source_version, row.model_id) in indexed
        if entry.decided_by == decided_by and not is_indexed and entry.is_placed:
            usable[row.source_version] = entry
        else:
            yield pvalue.TaggedOutput(STALE, row)
    for ref in sorted(set(found["refs"]), key=lambda r: r.version):
        if is_held(ref, known, config.reprocess, config.model_id):
            count(Count.UNCHANGED)
            yield pvalue.TaggedOutput(UNCHANGED, ref)
            if entry := usable.pop(ref.version, None):  # of a killed --reprocess
                yield pvalue.TaggedOutput(STALE, entry.row)
        elif entry := usable.pop(ref.version, None):
            count(Count.RECOVERED)
            row = taken_over(entry, config.run_id, config.ingest_date)
            yield pvalue.TaggedOutput(RECOVERED, row)
        else:
            yield ref
    for entry in usable.values():
        count(Count.RECOVERED)
        row = taken_over(entry, config.run_id, config.ingest_date)
        yield pvalue.TaggedOutput(ALONE, row)
