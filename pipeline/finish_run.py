"""Finish a batch run: supersede rows, remove orphans, count its rows, and write its summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder, typecoders
from apache_beam.pvalue import PCollection
from apache_beam.transforms.combiners import Count
from apache_beam.typehints import with_input_types, with_output_types

from pipeline.derived import write_missing_derived
from pipeline.slices import Slice
from pipeline.structured_reports import write_missing_reports
from pipeline.summary import write_summary
from transforms.config.route_config import RouteConfig
from transforms.core.choices import REPROCESS_NONE
from transforms.core.object_ref import ObjectRef
from transforms.lake.append import ConcurrentWriteError
from transforms.lake.change_decisions import place_again
from transforms.lake.files import exists
from transforms.lake.journal import clear_journal, is_placed, list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.lock import read_epoch
from transforms.lake.orphans import journaled_objects, remove_orphans, remove_unreferenced
from transforms.lake.published_tables import keep_in_step
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.run_counts import RunCounts, count_run, count_segments
from transforms.lake.schema import IndexRow, run_of
from transforms.lake.supersede import supersede


@dataclass
class CountDiscovered(beam.PTransform[PCollection[ObjectRef], PCollection[RunCounts]]):
    """Count references before a Flatten, since an engine may write all elements of a Flatten to disk."""

    def expand(self, refs: PCollection[ObjectRef]) -> PCollection[RunCounts]:
        counted: PCollection[RunCounts] = (
            refs
            | "Count" >> Count.Globally()
            | "Discovered" >> beam.Map(_discovered).with_output_types(RunCounts)
        )
        return counted


def _discovered(number: int) -> RunCounts:
    return RunCounts.of_count("discovered", number)


@dataclass
class FinishRun(beam.PTransform[PCollection[RunCounts], PCollection[str]]):
    """Finish a batch run once all its rows are in the index.

    Takes `RunCounts` of discovered, unchanged and failed objects, and those of `AppendIndexBatch`.
    Returns one element: the run's summary as JSON.

    Attributes:
        config: configuration of the run.
        epoch: epoch of the lake's lock that the run must still hold; None if no process holds it.
        part: as for `finish_run`.
    """

    config: RouteConfig
    epoch: str | None = None
    part: Slice | None = None

    def expand(self, counts: PCollection[RunCounts]) -> PCollection[str]:
        summary: PCollection[str] = (
            counts
            | "Sum" >> beam.CombineGlobally(SumCountsFn())  # type: ignore[no-untyped-call]
            | "Finish"
            >> beam.Map(
                lambda total: json.dumps(finish_run(total, self.config, self.epoch, self.part))
            ).with_output_types(str)
        )
        return summary


@with_input_types(RunCounts)
@with_output_types(RunCounts)
class SumCountsFn(beam.CombineFn):
    """Sum counts."""

    def create_accumulator(self) -> RunCounts:
        return RunCounts()

    def add_input(self, total: RunCounts, counts: RunCounts) -> RunCounts:
        return RunCounts.sum((total, counts))

    def merge_accumulators(self, totals: Iterable[RunCounts]) -> RunCounts:
        return RunCounts.sum(totals)

    def extract_output(self, total: RunCounts) -> RunCounts:
        return total

    def get_accumulator_coder(self) -> Coder:
        return typecoders.registry.get_coder(RunCounts)


def finish_run(
    counts: RunCounts,
    config: RouteConfig,
    epoch: str | None = None,
    part: Slice | None = None,
) -> dict[str, Any]:
    """Supersede rows, remove orphans, count the rows of the run and write its summary.

    Idempotent.

    Args:
        counts: counts of discovered, unchanged and failed objects, with the run's segments and orphans.
        config: configuration of the run.
        epoch: as in `FinishRun`.
        part: slice of the run to which counts and configuration belong, if it has slices. Only the last
            one finishes the run; the others keep their counts for it.

    Returns:
        The summary; empty if another slice follows.

    Raises:
        ConcurrentWriteError: another run has taken the lake's lock.
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    layout = config.layout
    if epoch is not None and read_epoch(layout) != epoch:
        raise ConcurrentWriteError(
            f"another run has taken the lock of {layout.root}; nothing is lost: run the same command "
            "again"
        )
    if config.reprocess == REPROCESS_NONE:
        counts = RunCounts.sum((counts, count_segments(counts.segments)))
        remove_orphans(layout, counts.orphans)
        if counts.complete:
            remove_unreferenced(layout, journaled_objects(layout, counts.segments))
    else:
        counts = RunCounts.sum((counts, _supersede(config, counts)))
    keep_in_step(layout)
    if part is not None and not part.is_last:
        if counts.complete:
            clear_journal(layout)
        part.save_counts(counts)
        return {}
    if part is not None:
        counts = part.with_earlier(counts)
        config = replace(config, run_id=run_of(config.run_id))
    derived = write_missing_derived(layout, config.policy.derive, config.run_id, config.limits)
    summary = write_summary(counts, config, derived=derived)
    if summary["complete"]:  # otherwise a write that was reported as failed may have succeeded
        clear_journal(layout)
    return summary


def _supersede(config: RouteConfig, counts: RunCounts) -> RunCounts:
    """Replace the rows that the run has decided again; return the counts of its rows.

    Args:
        config: configuration of the run.
        counts: counts of the run. If no object has failed, all journaled objects are known to be placed,
            and are not looked up.
    """
    layout, fingerprint = config.layout, config.fingerprint()
    any_failed = bool(counts.counts["failed"])
    entries = [
        entry
        for uri in list_journal(layout)
        for entry in read_journal(uri, layout)
        if entry.fingerprint == fingerprint and (not any_failed or is_placed(entry.row, layout))
    ]
    rows = [entry.row for entry in entries]
    rows.sort(key=lambda row: (row.ingested_at, str(row.object_uri)), reverse=True)
    later = {row.version_key: row for row in rows}  # the first attempt, if a step was retried
    unchanged = supersede(
        layout, list(later.values()), config.run_id, overrule_people=config.overrule_people
    )
    restored = sum(_restore(layout, row, later[row.version_key]) for row in unchanged)
    placed = (str(row.object_uri) for row in rows if is_stored(row))
    remove_unreferenced(layout, {*counts.orphans, *placed})
    write_missing_reports(layout, config.limits, required=config.write_sr)
    absent = {str(entry.row.object_uri) for entry in entries if entry.was_absent}
    restored += len(absent.intersection(str(row.object_uri) for row in unchanged))
    found = Counter({"unchanged": len(unchanged), "restored": restored})
    return RunCounts.sum((RunCounts(counts=found), count_run(layout, config.run_id)))


def _restore(layout: Layout, row: IndexRow, placed: IndexRow) -> bool:
    """Restore a lost object from the sink in which a run has placed it; return whether it was lost.

    Args:
        layout: the lake.
        row: current row, which is kept because a person decided it.
        placed: row of the run.
    """
    is_elsewhere = row.object_uri != placed.object_uri and is_stored(placed)
    if not is_elsewhere or exists(layout.absolute(str(row.object_uri))):
        return False
    place_again(layout, layout.absolute(str(placed.object_uri)), row)
    return True
