"""Reads and decodes objects, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import apache_beam as beam
from apache_beam import pvalue

from transforms.config.route_config import RouteConfig, read_patient_key
from transforms.core.object_ref import FAILED, ObjectRef, failure_of
from transforms.core.reasons import ProcessingFailure
from transforms.in_flight_pool import InFlightPool
from transforms.metrics import (
    CounterName,
    DistributionName,
    count,
    count_failed,
    record,
    record_seconds,
)
from transforms.sandbox.examine import Examined, examine
from transforms.sandbox.isolation import SandboxProcess

IMAGES, DECIDED = "films", "decided"
BATCH_REFS = 8
MIN_AHEAD: Final = 16
"""References that are worked on while the model or the disk is waited for, at least; two for each thread
if that is more. With the batches behind them they are what `OBJECT_CACHE` has room
for, if images are large."""


@dataclass
class FetchAndExamine(beam.PTransform):  # type: ignore[misc]
    """References to (row, film) in `IMAGES`, rows that need no model in `DECIDED`, and `FAILED`."""

    config: RouteConfig

    def expand(self, refs: beam.PCollection[ObjectRef]) -> pvalue.DoOutputsTuple:
        return (
            refs
            | "BatchRefs"
            >> beam.BatchElements(min_batch_size=BATCH_REFS, max_batch_size=BATCH_REFS)
            | "Examine"
            >> beam.ParDo(ExamineFn(self.config))
            .with_output_types(Any)
            .with_outputs(DECIDED, FAILED, main=IMAGES)
        )


class ExamineFn(beam.DoFn):  # type: ignore[misc]
    """Examines references, in as many threads as child processes.

    Some stay in hand beyond those that were just given, so that decoders are at work while the model and
    placement are; what they came to is given out in their order.
    """

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def setup(self) -> None:
        key_file = self._config.patient_key_file
        self._patient_key = read_patient_key(key_file) if key_file else None
        self._pool = ThreadPoolExecutor(self._config.fetch_threads)
        self._idle: SimpleQueue[SandboxProcess] = SimpleQueue()
        limits = self._config.limits
        for _ in range(self._config.fetch_threads):
            child = SandboxProcess(
                timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
            )
            self._idle.put(child)

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def start_bundle(self) -> None:
        self._in_flight = InFlightPool(self._pool, self._examine)

    def process(
        self,
        refs: Sequence[ObjectRef],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        for ref in refs:
            self._in_flight.submit(ref, timestamp, window)
        yield from self._finished(ahead=max(MIN_AHEAD, 2 * self._config.fetch_threads))

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._finished(ahead=0)

    def _finished(self, ahead: int) -> Iterator[Any]:
        for ref, outcome, stamped in self._in_flight.completed(ahead=ahead):
            tag, value = self._told(ref, outcome)
            yield stamped(value) if tag == IMAGES else pvalue.TaggedOutput(tag, stamped(value))

    def _told(self, ref: ObjectRef, outcome: Examined | ProcessingFailure) -> tuple[str, Any]:
        if isinstance(outcome, ProcessingFailure):
            count_failed(outcome.reason)
            return FAILED, failure_of(ref.uri, outcome, log_uris=self._config.log_uris)
        count(CounterName.EXAMINED)
        count(CounterName.BYTES_READ, ref.size)
        record(DistributionName.OBJECT_BYTES, ref.size)
        record_seconds(DistributionName.FETCH_MS, outcome.fetch_s)
        if outcome.decode_s is not None:
            record_seconds(DistributionName.DECODE_MS, outcome.decode_s)
        if outcome.image is None:
            return DECIDED, outcome.row
        if outcome.used_fallback:
            count(CounterName.DECODED_IN_FULL)
        return IMAGES, (outcome.row, outcome.image)

    def _examine(self, ref: ObjectRef) -> Examined | ProcessingFailure:
        child = self._idle.get()
        try:
            return examine(ref, self._config, self._patient_key, child)
        except ProcessingFailure as error:
            return error
        finally:
            self._idle.put(child)
