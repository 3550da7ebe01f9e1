"""Open the lake in the first step of a batch run, and list its index and its journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin, TaggedOutput

from transforms.core.labels import LabelSet
from transforms.lake.append import index_at_start
from transforms.lake.append_log import LogEnd, LogShard, Segment
from transforms.lake.label_sets import record_label_set
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.recovery import prepare_recovery, recovered_rows
from transforms.lake.schema import IndexRow
from transforms.lake.table_settings import TableSettings, record_settings

FILES: Final = "files"
LOG_ENDS: Final = "log_ends"
JOURNALED: Final = "journaled"

EncodedEnd = tuple[int, int, int, str, str]
"""A `LogShard` and its `LogEnd`: shards, shard, number, partition, and next partition or ""."""


@dataclass
class OpenLake(beam.PTransform[PBegin, DoOutputsTuple]):
    """Open the lake and list its index and its journal.

    Returns the URIs of index files in `FILES`, the ends of logs in `LOG_ENDS`, and the rows that the run
    recovers from the journal in `JOURNALED`.

    Attributes:
        layout: Layout of the lake.
        run_id: Id of the run, whose own segments are ignored if an engine retries this step.
        ingest_date: Partition of the run, YYYY-MM-DD.
        fingerprint: Fingerprint of the run's configuration.
        label_set: Labels of the model.
        publish: As which tables to publish the index; None keeps what the lake has recorded.
        opened: Whether the process that launched the run has opened the lake. A job that an engine starts
            from a template opens it here.
    """

    layout: Layout
    run_id: str
    ingest_date: str
    fingerprint: str
    label_set: LabelSet
    opened: bool = False
    publish: TableSettings | None = None

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        listed: DoOutputsTuple = (
            pbegin
            | "Lake" >> beam.Create([self.run_id])
            | "List"
            >> beam.FlatMap(
                _open,
                self.layout,
                self.ingest_date,
                None if self.opened else self.fingerprint,
                self.label_set,
                self.publish,
            )
            .with_output_types(str, **{LOG_ENDS: EncodedEnd, JOURNALED: IndexRow})
            .with_outputs(LOG_ENDS, JOURNALED, main=FILES)
        )
        return listed


def _open(
    run_id: str,
    layout: Layout,
    ingest_date: str,
    fingerprint: str | None,
    label_set: LabelSet,
    publish: TableSettings | None,
) -> Iterator[str | TaggedOutput[str, EncodedEnd] | TaggedOutput[str, IndexRow]]:
    if fingerprint is not None:
        open_lake(layout)
        record_label_set(layout, label_set)
        record_settings(layout, publish)
        prepare_recovery(layout, run_id, fingerprint)
    files, log_ends = index_at_start(layout, run_id)
    for log, end in log_ends.items():
        assert end.last is not None
        encoded = log.shards, log.shard, end.last.number, end.last.partition
        yield TaggedOutput(LOG_ENDS, (*encoded, end.next_partition or ""))
    for row in recovered_rows(layout, run_id):
        yield TaggedOutput(JOURNALED, replace(row, run_id=run_id, ingest_date=ingest_date))
    yield from files


def decode_end(ends: list[EncodedEnd], log: LogShard) -> LogEnd:
    """Return the end of a log from the output `LOG_ENDS` of `OpenLake`."""
    for shards, shard, number, partition, next_partition in ends:
        if (shards, shard) == (log.shards, log.shard):
            return LogEnd(Segment(number, partition), next_partition or None)
    return LogEnd()
