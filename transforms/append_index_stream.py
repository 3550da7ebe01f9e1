"""Append the placed rows of a stream to the index, and sweep the journal while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterAny,
    AfterCount,
    AfterProcessingTime,
    Repeatedly,
)
from apache_beam.transforms.window import GlobalWindows, TimestampedValue

from transforms.config.route_config import RouteConfig
from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import shard_of
from transforms.lake.index_replica import replica_of
from transforms.lake.published_tables import Publisher
from transforms.lake.recovery import sweep_journal
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow, to_table
from transforms.metrics import (
    CounterName,
    DistributionName,
    count,
    count_indexed,
    record,
    record_seconds,
)

MAX_ROWS: Final = 10_000
"""Number of rows of a shard that are written without waiting for the end of the interval."""
SWEEP_INTERVAL_S: Final = 60.0


@dataclass
class AppendIndexStream(beam.PTransform[PCollection[IndexRow], PCollection[IndexRow]]):
    """Append placed rows to the index at least every `index_interval` seconds.

    Takes placed rows, and returns the rows that were written. They are grouped by processing time in the
    global window, because the watermark of a polling source does not advance on some engines.
    """

    config: RouteConfig

    def expand(self, rows: PCollection[IndexRow]) -> PCollection[IndexRow]:
        assert self.config.stream is not None
        shards, interval = self.config.index_shards, self.config.stream.index_interval
        appended: PCollection[IndexRow] = (
            rows
            | "EventTime" >> beam.Map(_with_event_time).with_output_types(IndexRow)
            | "KeyByShard"
            >> beam.Map(lambda row: (shard_of(row.identity, shards), row)).with_output_types(
                tuple[int, IndexRow]
            )
            | "IndexEvery"
            >> beam.WindowInto(
                GlobalWindows(),
                trigger=Repeatedly(AfterAny(AfterCount(MAX_ROWS), AfterProcessingTime(interval))),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | "GroupByShard" >> beam.GroupByKey()
            | "Commit" >> beam.ParDo(AppendFn(self.config)).with_output_types(IndexRow)
        )
        return appended


class AppendFn(beam.DoFn):
    """Append the rows of one shard to its log. Idempotent."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def setup(self) -> None:
        replica_of(self._config.layout).preload()

    def process(self, group: tuple[int, Iterable[IndexRow]]) -> Iterator[IndexRow]:
        shard, rows = group
        config = self._config
        started = time.monotonic()
        log = LogShard(config.index_shards, shard)
        appended = append(config.layout, replica_of(config.layout), log, list(rows))
        record_seconds(DistributionName.INDEX_MS, time.monotonic() - started)
        count(CounterName.ALREADY_INDEXED, appended.existing)
        count_indexed(RunCounts.of_table(to_table(appended.rows)))
        for row in appended.rows:
            if row.event_time is not None:
                record(DistributionName.LATENCY_S, max(0, round(time.time() - row.event_time)))
        yield from appended.rows


class SweepJournalFn(beam.DoFn):
    """Sweep the journal from time to time, and keep published tables in step with the index.

    Takes the elements of `PeriodicTrigger`. Tables get one version for each interval of the index, not
    one for each segment.
    """

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def process(self, number: int) -> Iterator[None]:
        if number == 0 and _SweepSchedule.is_due(self._config.run_id):
            layout = self._config.layout
            sweep_journal(layout, replica_of(layout))
        if number == 0 and self._config.stream is not None:
            Publisher.keep_in_step(self._config.layout, self._config.stream.index_interval)
        yield from ()


class _SweepSchedule:
    """When this process last swept the journal of each run."""

    _last: Final[dict[str, float]] = {}
    _lock: Final = threading.Lock()

    @classmethod
    def is_due(cls, run_id: str) -> bool:
        now = time.monotonic()
        with cls._lock:
            if now - cls._last.setdefault(run_id, now) < SWEEP_INTERVAL_S:
                return False
            cls._last[run_id] = now
            return True


def _with_event_time(row: IndexRow) -> IndexRow | TimestampedValue[IndexRow]:
    """Return a row with its event time as timestamp, which RunInference drops."""
    return row if row.event_time is None else TimestampedValue(row, row.event_time)
