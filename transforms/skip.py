"""Skips what the lake holds: references joined with its index and the journal of a killed run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import HeldVersion
from transforms.lake.journal import JournalRow, taken_over
from transforms.lake.settle import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE
from transforms.metrics import Count, count
from transforms.refs import ObjectRef

UNCHANGED, RECOVERED, ALONE, STALE = "unchanged", "recovered", "alone", "stale"
"""Tags of `SkipHeld`: references that the lake holds; rows taken over from the journal; such rows
whose source is no longer among the references; journaled rows that only tell what was placed."""


@dataclass
class SkipHeld(beam.PTransform):  # type: ignore[misc]
    """Leaves the references that need work; see the tags for what becomes of the others.

    Input: a dict with "refs", "held" (as of `HeldSources`) and "journal". No reference is pickled
    for the join: a night's listing may name every object of an archive.
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        return (
            {
                "refs": pcolls["refs"]
                | "KeyRefs"
                >> beam.Map(lambda ref: (ref.uri, (ref.version, ref.size))).with_output_types(
                    tuple[str, tuple[str, int]]
                ),
                "held": pcolls["held"],
                "journal": pcolls["journal"]
                | "KeyJournal"
                >> beam.Map(lambda entry: (entry.row.source_uri, entry)).with_output_types(
                    tuple[str, Any]
                ),
            }
            | "JoinBySource" >> beam.CoGroupByKey()
            | "SkipHeld"
            >> beam.FlatMap(_sorted_out, self.config, self.config.decided_by())
            .with_output_types(Any)
            .with_outputs(UNCHANGED, RECOVERED, ALONE, STALE, main="refs")
        )


def is_held(ref: ObjectRef, known: Iterable[HeldVersion], reprocess: str, model_id: str) -> bool:
    """Whether a reference needs no work.

    With reprocess "model", what another model decided is decided again; rows that no model decided
    (quarantined, not_xray) stand.
    """
    if reprocess == REPROCESS_ALL:
        return False
    models = {model for version, model in known if version == ref.version}
    if reprocess == REPROCESS_MODEL:
        return bool(models & {model_id, None})
    assert reprocess == REPROCESS_NONE
    return bool(models)


def _order_of(entry: JournalRow) -> tuple[str, str, str]:
    return entry.row.source_version, entry.decided_by, str(entry.row.object_uri)


def _sorted_out(
    joined: tuple[str, dict[str, Any]], config: RouteConfig, decided_by: str
) -> Iterator[ObjectRef | pvalue.TaggedOutput]:
    uri, found = joined
    known: set[HeldVersion] = set(found["held"])
    usable: dict[str, JournalRow] = {}
    for entry in sorted(found["journal"], key=_order_of):
        row = entry.row
        is_indexed = (row.source_version, row.model_id) in known
        if (
            entry.decided_by == decided_by
            and not is_indexed
            and row.source_version not in usable
            and entry.is_placed
        ):
            usable[row.source_version] = entry
        else:
            yield pvalue.TaggedOutput(STALE, row)
    for version, size in sorted(set(found["refs"])):
        ref = ObjectRef(uri, version, size)
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
