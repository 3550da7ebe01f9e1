"""Read, parse and decode objects, several concurrently."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Final

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import DoOutputsTuple, PCollection, TaggedOutput

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.config.route_config import read_patient_key
from transforms.core.batch_sizes import EXAMINE_BATCH
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.read_ahead import Reservation, shared_read_ahead
from transforms.core.reasons import FORGOTTEN, ProcessingFailure, Status
from transforms.core.worker_resources import Concurrency
from transforms.in_flight import InFlightDoFn, WindowedOutput
from transforms.lake.layout import Layout
from transforms.lake.patient_ids import OfPatient, of_nobody, of_patients
from transforms.lake.schema import IndexRow
from transforms.lake.tombstones import NONE, Kind, forget_source, tombstones_of_run
from transforms.lake.traces import has_trace, is_hashed_in, object_has_trace
from transforms.metrics import (
    CounterName,
    DistributionName,
    count,
    count_failed,
    record,
    record_seconds,
)
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.examine import (
    Examined,
    ExamineOptions,
    examine_fetched,
    object_read,
)
from transforms.sandbox.object_cache import CAPACITY_BYTES, OBJECT_CACHE
from transforms.sandbox.object_read import Fetched

IMAGES, DECIDED = "images", "decided"
MIN_IN_FLIGHT: Final = 16
"""Minimum number of references that are examined while the model and placement run; at least two per
thread. Those that are read ahead are added."""
MAX_IN_FLIGHT_BYTES: Final = CAPACITY_BYTES // 2
"""Of all these, so that `OBJECT_CACHE` has room for them and the batches downstream."""


@dataclass
class FetchAndExamine(beam.PTransform[PCollection[ObjectRef], DoOutputsTuple]):
    """Examine objects.

    Takes references. Returns (row, network input) in `IMAGES`, rows that need no model in `DECIDED`,
    failures in `FAILED`, and the keys of objects that must not return to the lake in `FORGOTTEN`.

    Attributes:
        options: Options of `examine`.
        concurrency: How many objects a worker decodes and reads at the same time.
        patient_key_file: File or secret with the key of the hash of Patient ID, read on the worker, or
            None.
        log_uris: Whether failures may contain source URIs.
        layout: The lake, whose tombstones say which objects must not return; None for none.
    """

    options: ExamineOptions
    concurrency: Concurrency = field(default_factory=Concurrency)
    patient_key_file: str | None = None
    log_uris: bool = False
    layout: Layout | None = None

    def expand(self, refs: PCollection[ObjectRef]) -> DoOutputsTuple:
        outputs: DoOutputsTuple = (
            refs
            | "BatchRefs"
            >> beam.BatchElements(min_batch_size=EXAMINE_BATCH, max_batch_size=EXAMINE_BATCH)
            | "Examine"
            >> beam.ParDo(
                ExamineFn(
                    self.options,
                    self.concurrency,
                    self.patient_key_file,
                    self.log_uris,
                    self.layout,
                )
            )
            .with_output_types(
                tuple[IndexRow, np.ndarray],
                **{DECIDED: IndexRow, FAILED: Failure, FORGOTTEN: str},
            )
            .with_outputs(DECIDED, FAILED, FORGOTTEN, main=IMAGES)
        )
        return outputs


@dataclass(eq=False)  # Beam hashes DoFns by identity
class ExamineFn(InFlightDoFn[ObjectRef, Examined | ProcessingFailure]):
    """Read objects ahead, and examine them in threads, each of which waits for a child process.

    References stay in flight between calls of `process`, so that decoders work while the model and
    placement run. Results are emitted in input order. Attributes are those of `FetchAndExamine`.
    """

    options: ExamineOptions
    concurrency: Concurrency
    patient_key_file: str | None
    log_uris: bool
    layout: Layout | None = None
    max_size = MAX_IN_FLIGHT_BYTES

    def setup(self) -> None:
        layout = self.layout
        self._tombstones = (
            NONE if layout is None else tombstones_of_run(layout, self.options.run_id)
        )
        key = read_patient_key(self.patient_key_file) if self.patient_key_file else None
        self._options = replace(self.options, patient_key=key)
        self._threads = self.concurrency.threads_of_worker
        self._read_ahead = shared_read_ahead(
            self.concurrency.read_ahead_bytes_of_worker, self.concurrency.max_reads
        )
        self._decoders = ThreadPoolExecutor(self._threads)
        self._is_closed = False
        self._unfinished = 0  # objects for the decoders
        self._counting = threading.Lock()
        self._idle_children: SimpleQueue[SandboxProcess] = SimpleQueue()
        limits = self.options.limits
        for _ in range(self._threads):
            child = SandboxProcess(
                timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
            )
            self._idle_children.put(child)

    def teardown(self) -> None:
        self._is_closed = True
        self._decoders.shutdown()
        while not self._idle_children.empty():
            self._idle_children.get().close()

    def process(
        self,
        refs: Sequence[ObjectRef],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedOutput]:
        for ref in refs:
            self.submit(ref, timestamp, window)
        examined = max(MIN_IN_FLIGHT, 2 * self._threads)
        yield from self.completed(max_in_flight=examined + self._read_ahead.reads)

    def size(self, ref: ObjectRef) -> int:
        """Return the number of bytes of an object; 0 if its source does not say."""
        return max(0, ref.size)

    def outputs(self, ref: ObjectRef, outcome: Examined | ProcessingFailure) -> Iterable[object]:
        tag, value = self._to_output(ref, outcome)
        yield value if tag == IMAGES else TaggedOutput(tag, value)

    def _to_output(
        self, ref: ObjectRef, outcome: Examined | ProcessingFailure
    ) -> tuple[str, object]:
        """Record metrics, and return the output's tag and value."""
        if isinstance(outcome, ProcessingFailure):
            count_failed(outcome.reason)
            return FAILED, failure_of(ref.uri, outcome, log_uris=self.log_uris)
        if self.layout is not None and self._is_forgotten(outcome.row):
            return self._forget(self.layout, outcome.row)
        count(CounterName.EXAMINED)
        count(CounterName.BYTES_READ, outcome.row.source_size_bytes)
        record(DistributionName.OBJECT_BYTES, outcome.row.source_size_bytes)
        record_seconds(DistributionName.FETCH_MS, outcome.fetch_s)
        if outcome.decode_s is not None:
            record_seconds(DistributionName.DECODE_MS, outcome.decode_s)
        if outcome.image is None:
            return DECIDED, outcome.row
        if outcome.used_fallback:
            count(CounterName.DECODED_BY_FALLBACK)
        return IMAGES, (outcome.row, outcome.image)

    def _is_forgotten(self, row: IndexRow) -> bool:
        """Return whether an object was erased; the bytes of a quarantined one are searched."""
        if self._tombstones.match(row):
            return True
        if not self._tombstones or row.status != Status.QUARANTINED:
            return False
        is_trace = is_hashed_in(self._tombstones)
        of_patient: OfPatient = of_nobody
        if self._options.patient_key is not None:
            is_forgotten = functools.partial(self._tombstones.has, Kind.PATIENT)
            of_patient = of_patients(is_forgotten, self._options.patient_key)
        if (data := OBJECT_CACHE.pop(str(row.content_sha256))) is not None:
            found = has_trace(data.rewind(), is_trace, of_patient)
            OBJECT_CACHE.put(str(row.content_sha256), data)
            return found
        with contextlib.suppress(OSError):  # placement reports it
            return object_has_trace(row.source_uri, is_trace, of_patient)
        return False

    def _forget(self, layout: Layout, row: IndexRow) -> tuple[str, object]:
        """Drop an object that was erased, and record its source, which is not read again."""
        if (data := OBJECT_CACHE.pop(str(row.content_sha256))) is not None:
            data.close()
        try:
            forget_source(layout, self._tombstones, row)
        except ProcessingFailure as error:
            count_failed(error.reason)
            return FAILED, failure_of(row.source_uri, error, log_uris=self.log_uris)
        count(CounterName.FORGOTTEN)
        return FORGOTTEN, row.object_key

    def start(self, ref: ObjectRef) -> Future[Examined | ProcessingFailure]:
        """Start reading an object, which is examined when it is read."""
        read, result = object_read(ref, self._options), Future[Examined | ProcessingFailure]()

        def examine_read(error: BaseException | None, reservation: Reservation) -> None:
            try:
                fetched = read.finish(error)
            except BaseException as failure:
                reservation.release()
                _fail(result, failure)
                return
            with self._counting:
                is_awaited = self._unfinished < self._threads
                self._unfinished += 1
            if is_awaited:
                self._read_ahead.grow()
            try:
                self._decoders.submit(self._examine, fetched, reservation, result)
            except RuntimeError:  # a bundle has failed, and this step has ended
                fetched.close()
                reservation.release()

        self._read_ahead.submit(read, examine_read)
        return result

    def _examine(
        self,
        fetched: Fetched,
        reservation: Reservation,
        result: Future[Examined | ProcessingFailure],
    ) -> None:
        if self._is_closed:
            fetched.close()
            reservation.release()
            return
        child = self._idle_children.get()
        try:
            result.set_result(examine_fetched(fetched, self._options, child))
        except BaseException as error:
            _fail(result, error)
        finally:
            self._idle_children.put(child)
            reservation.release()
            with self._counting:
                self._unfinished -= 1


def _fail(result: Future[Examined | ProcessingFailure], error: BaseException) -> None:
    """Return the failure of an object; other exceptions end the bundle."""
    if isinstance(error, ProcessingFailure):
        result.set_result(error)
    else:
        result.set_exception(error)
