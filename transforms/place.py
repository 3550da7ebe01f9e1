"""Puts each object's bytes where its row says, before any row of it is written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config.route_config import INDEX_ONLY, LINK, RouteConfig
from transforms.core.object_ref import FAILED, Failure, failure_of
from transforms.core.reasons import ProcessingFailure
from transforms.in_flight_pool import InFlightPool
from transforms.lake import files
from transforms.lake.journal import write_journal
from transforms.lake.layout import QUARANTINE, Layout
from transforms.lake.schema import IndexRow
from transforms.metrics import CounterName, DistributionName, count, count_failed, record_seconds
from transforms.sandbox.object_cache import OBJECT_CACHE

PLACED = "placed"
BATCH_ROWS = 16


@dataclass
class Place(beam.PTransform):  # type: ignore[misc]
    """Decided rows to rows with `object_uri` in `PLACED`, and `FAILED`."""

    config: RouteConfig

    def expand(self, rows: beam.PCollection[IndexRow]) -> pvalue.DoOutputsTuple:
        return (
            rows
            | "BatchRows"
            >> beam.BatchElements(min_batch_size=BATCH_ROWS, max_batch_size=BATCH_ROWS)
            | "Put"
            >> beam.ParDo(PlaceFn(self.config))
            .with_output_types(Any)
            .with_outputs(FAILED, main=PLACED)
        )


class PlaceFn(beam.DoFn):  # type: ignore[misc]
    """Journals a batch of rows, then places their objects. Running it again changes nothing.

    A batch's rows are given out when the next one has been journalled: its objects are placed meanwhile.
    """

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._decided_by = self._config.fingerprint()
        self._pool = ThreadPoolExecutor(self._config.fetch_threads)

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start_bundle(self) -> None:
        self._in_flight = InFlightPool(self._pool, self._place)

    def process(
        self,
        rows: Sequence[IndexRow],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        bound = [with_object_uri(row, self._config) for row in rows]
        try:
            write_journal(self._config.layout, bound, self._decided_by)
        except ProcessingFailure as error:
            for row in bound:
                yield pvalue.TaggedOutput(FAILED, self._failure(row, error))
            return
        for row in bound:
            self._in_flight.submit(row, timestamp, window)
        yield from self._finished(ahead=len(bound))

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._finished(ahead=0)

    def _finished(self, ahead: int) -> Iterator[Any]:
        for row, outcome, stamped in self._in_flight.completed(ahead=ahead):
            if isinstance(outcome, ProcessingFailure):
                yield pvalue.TaggedOutput(FAILED, stamped(self._failure(row, outcome)))
                continue
            count(CounterName.PLACED)
            record_seconds(DistributionName.PLACE_MS, outcome)
            yield stamped(row)

    def _place(self, row: IndexRow) -> float | ProcessingFailure:
        started = time.monotonic()
        try:
            place(row, self._config)
        except ProcessingFailure as error:
            return error
        return time.monotonic() - started

    def _failure(self, row: IndexRow, error: ProcessingFailure) -> Failure:
        count_failed(error.reason)
        return failure_of(row.source_uri, error, log_uris=self._config.log_uris)


def with_object_uri(row: IndexRow, config: RouteConfig) -> IndexRow:
    """Return a decided row that says where its object is to stand."""
    if config.placement == INDEX_ONLY:
        return replace(row, object_uri=row.source_uri)
    return replace(row, object_uri=target_of(row, config.layout))


def place(row: IndexRow, config: RouteConfig) -> None:
    """Put an object where its row says.

    Raises:
        Unaccounted: the source changed meanwhile, or the lake's storage refused.
    """
    if config.placement == INDEX_ONLY:
        return
    sha256 = str(row.content_sha256)
    target, scratch = str(row.object_uri), config.layout.scratch(row.destination)
    if config.placement == LINK:
        files.put_link(target, row.source_uri, row.source_version, sha256, scratch=scratch)
        return
    with OBJECT_CACHE.pop(sha256) or contextlib.nullcontext() as held:
        if files.copy_server_side(target, row.source_uri, row.source_version, sha256):
            return
        if held is not None:
            files.put_file(target, held.from_start(), sha256, scratch=scratch)
        else:
            files.put_copy(target, row.source_uri, sha256, scratch=scratch)


def target_of(row: IndexRow, layout: Layout) -> str:
    """Return where an object belongs."""
    if row.destination == QUARANTINE:
        return layout.quarantine_uri(str(row.content_sha256))
    return layout.object_uri(
        str(row.destination),
        str(row.study_instance_uid),
        str(row.series_instance_uid),
        str(row.sop_instance_uid),
        str(row.content_sha256),
    )
