"""Opens the lake as the first step of a batch run, and lists what its index has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin, TaggedOutput

from transforms.lake.append import log_ends
from transforms.lake.append_log import LogEnd, LogShard, Segment
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.opening import open_lake

FILES: Final = "files"
LOG_ENDS: Final = "log_ends"

EncodedEnd = tuple[int, int, int, str, str]
"""A log and its end: shards, shard, number, partition and next partition (or "")."""


@dataclass
class OpenLake(beam.PTransform[PBegin, DoOutputsTuple]):
    """Open the lake and list its index.

    Returns URIs of index files in `FILES`, and where each log ends in `LOG_ENDS`. A run from the command
    line has opened the lake before, so that only the listing is left; a job that an engine starts from
    a template opens it here.

    Attributes:
        layout: Layout of the lake.
        run_id: Id of the run, whose own segments do not count when an engine runs this step again.
        shards: Number of logs.
        fingerprint: As of `recover`.
    """

    layout: Layout
    run_id: str
    shards: int
    fingerprint: str

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        files: DoOutputsTuple = (
            pbegin
            | "Lake" >> beam.Create([self.run_id])
            | "List"
            >> beam.FlatMap(_open, self.layout, self.shards, self.fingerprint)
            .with_output_types(str, **{LOG_ENDS: EncodedEnd})
            .with_outputs(LOG_ENDS, main=FILES)
        )
        return files


def _open(
    run_id: str, layout: Layout, shards: int, fingerprint: str
) -> Iterator[str | TaggedOutput[str, EncodedEnd]]:
    open_lake(layout, shards, fingerprint=fingerprint)
    for log, end in log_ends(layout, besides=run_id).items():
        assert end.last is not None
        encoded = log.shards, log.shard, end.last.number, end.last.partition
        yield TaggedOutput(LOG_ENDS, (*encoded, end.next_partition or ""))
    yield from list_index(layout)


def decode_end(ends: list[EncodedEnd], log: LogShard) -> LogEnd:
    """Return the end of one log among those that `OpenLake` found."""
    for shards, shard, number, partition, next_partition in ends:
        if (shards, shard) == (log.shards, log.shard):
            return LogEnd(Segment(number, partition), next_partition or None)
    return LogEnd()
