"""Store each object at the location in its row, before the row is written to the index."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PCollection, TaggedOutput

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.core.batch_sizes import PLACE_BATCH
from transforms.core.choices import INDEX_ONLY, LINK
from transforms.core.labels import QUARANTINE
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.reasons import ProcessingFailure, Status
from transforms.core.worker_resources import Concurrency
from transforms.imaging.limits import Limits
from transforms.in_flight import InFlightDoFn, WindowedOutput
from transforms.lake import files
from transforms.lake.journal import write_journal
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.metrics import CounterName, DistributionName, count, count_failed, record_seconds
from transforms.sandbox.object_cache import OBJECT_CACHE
from transforms.sandbox.write_report import ReportWriter
from transforms.storage.local import LocalStorage, is_version_of
from transforms.storage.schemes import is_local

PLACED = "placed"
JournaledRow: TypeAlias = tuple[IndexRow, Future[str]]
"""A row, and the journal file with its batch."""
Placed: TypeAlias = tuple[IndexRow, float]
"""A row whose object is placed, and the duration in seconds."""


@dataclass
class Place(beam.PTransform[PCollection[IndexRow], DoOutputsTuple]):
    """Place the objects of decided rows.

    Takes decided rows. Returns rows with `object_uri` in `PLACED`, and failures in `FAILED`.

    Attributes:
        layout: Layout of the lake.
        placement: copy, link or index_only.
        fingerprint: Fingerprint of the configuration, written to the journal.
        concurrency: How many objects a worker places at the same time; at least a batch in a store, where
            they wait for its answers.
        log_uris: Whether failures may contain source URIs.
        note_absent: Whether to note in the journal which objects do not exist yet, at the cost of a
            request per object; for runs that decide objects again.
        write_sr: Whether to write a structured report about each routed object, before the object.
        limits: Resource limits of an object, for reading its header again.
    """

    layout: Layout
    placement: str
    fingerprint: str
    concurrency: Concurrency = field(default_factory=Concurrency)
    log_uris: bool = False
    note_absent: bool = False
    write_sr: bool = False
    limits: Limits = field(default_factory=Limits)

    def expand(self, rows: PCollection[IndexRow]) -> DoOutputsTuple:
        outputs: DoOutputsTuple = (
            rows
            | "BatchRows"
            >> beam.BatchElements(min_batch_size=PLACE_BATCH, max_batch_size=PLACE_BATCH)
            | "Put"
            >> beam.ParDo(
                PlaceFn(
                    self.layout,
                    self.placement,
                    self.fingerprint,
                    self.concurrency,
                    self.log_uris,
                    self.note_absent,
                    self.write_sr,
                    self.limits,
                )
            )
            .with_output_types(IndexRow, **{FAILED: Failure})
            .with_outputs(FAILED, main=PLACED)
        )
        return outputs


@dataclass(eq=False)  # Beam hashes DoFns by identity
class PlaceFn(InFlightDoFn[JournaledRow, Placed | ProcessingFailure]):
    """Write a batch of rows to the journal, then place their objects. Idempotent.

    A batch is emitted after the next one, so that its objects are placed in between. Attributes are those
    of `Place`.
    """

    layout: Layout
    placement: str
    fingerprint: str
    concurrency: Concurrency = field(default_factory=Concurrency)
    log_uris: bool = False
    note_absent: bool = False
    write_sr: bool = False
    limits: Limits = field(default_factory=Limits)

    def setup(self) -> None:
        threads = self.concurrency.threads_of_worker
        is_remote = not all(map(is_local, self.layout.object_roots))
        self._executor = ThreadPoolExecutor(max(threads, PLACE_BATCH) if is_remote else threads)
        self._reports = ReportWriter(self.layout, self.limits, threads) if self.write_sr else None

    def teardown(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        if self._reports is not None:
            self._reports.close()

    def process(
        self,
        rows: Sequence[IndexRow],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedOutput]:
        rows = [with_object_uri(row, self.layout, self.placement) for row in rows]
        absent = self._absent(rows) if self.note_absent else frozenset()
        journaled = self._executor.submit(  # first in the queue: no object is placed before
            write_journal, self.layout, rows, self.fingerprint, absent
        )
        for row in rows:
            self.submit((replace(row, thumbnail=None, header=None), journaled), timestamp, window)
        yield from self.completed(max_in_flight=len(rows))

    def _absent(self, rows: Sequence[IndexRow]) -> frozenset[str]:
        """Return the `object_uri` of rows whose objects do not exist."""
        uris = [str(row.object_uri) for row in rows]
        absent = self._executor.map(self._is_absent, uris)
        return frozenset(uri for uri, is_absent in zip(uris, absent, strict=True) if is_absent)

    def _is_absent(self, object_uri: str) -> bool:
        try:
            return not files.exists(self.layout.absolute(object_uri))
        except OSError:
            return False  # placement reports that the storage does not respond

    def start(self, journaled_row: JournaledRow) -> Future[Placed | ProcessingFailure]:
        return self._executor.submit(self._place, journaled_row)

    def outputs(
        self, journaled_row: JournaledRow, outcome: Placed | ProcessingFailure
    ) -> Iterable[object]:
        if isinstance(outcome, ProcessingFailure):
            count_failed(outcome.reason)
            uri = journaled_row[0].source_uri
            yield TaggedOutput(FAILED, failure_of(uri, outcome, log_uris=self.log_uris))
            return
        count(CounterName.PLACED)
        placed, seconds = outcome
        record_seconds(DistributionName.PLACE_MS, seconds)
        yield placed

    def _place(self, journaled_row: JournaledRow) -> Placed | ProcessingFailure:
        """Place one object after its row is in the journal.

        Returns:
            Its row and the duration in seconds, or the failure.
        """
        row, journaled = journaled_row
        try:
            journaled.result()
            started = time.monotonic()
            if self._reports is not None and row.status == Status.ROUTED:
                self._write_report(row, self._reports)
            place(row, self.layout, self.placement)
        except ProcessingFailure as error:
            return error
        placed = with_source_state(row) if self.placement == LINK else row
        return placed, time.monotonic() - started

    def _write_report(self, row: IndexRow, reports: ReportWriter) -> None:
        """Write the report about an object; before the object, from which recovery knows both."""
        ref = ObjectRef(row.source_uri, row.source_version, row.source_size_bytes)
        cached = OBJECT_CACHE.pop(str(row.content_sha256))
        try:
            written = reports.write(row, ref, cached)
        finally:
            if cached is not None:
                OBJECT_CACHE.put(str(row.content_sha256), cached)
        count(CounterName.REPORTS if written else CounterName.REPORTS_FAILED)


def with_object_uri(row: IndexRow, layout: Layout, placement: str) -> IndexRow:
    """Return a decided row with the URI at which its object will be placed."""
    if placement == INDEX_ONLY:
        return replace(row, object_uri=row.source_uri)
    return replace(row, object_uri=layout.relative(_target_uri(row, layout)))


def place(row: IndexRow, layout: Layout, placement: str) -> None:
    """Store an object at its row's `object_uri`, if it is not there yet.

    Raises:
        ProcessingFailure: The source has changed, or the storage refused the write.
    """
    if placement == INDEX_ONLY:
        return
    sha256 = str(row.content_sha256)
    target, scratch = layout.absolute(str(row.object_uri)), layout.scratch(row.destination)
    mode = layout.file_mode
    if placement == LINK:
        files.put_link(
            target, row.source_uri, row.source_version, sha256, scratch=scratch, file_mode=mode
        )
        return
    with OBJECT_CACHE.pop(sha256) or contextlib.nullcontext() as cached:
        if files.copy_server_side(target, row.source_uri, row.source_version, sha256):
            return
        if cached is not None:
            files.put_file(target, cached.rewind(), sha256, scratch=scratch, file_mode=mode)
        else:
            files.put_copy(
                target,
                row.source_uri,
                sha256,
                scratch=scratch,
                file_mode=mode,
                version=row.source_version,
                size=row.source_size_bytes,
            )


def with_source_state(row: IndexRow) -> IndexRow:
    """Return a row with the present state of its source, which a hard link has changed."""
    with contextlib.suppress(OSError):
        found = LocalStorage().stat(row.source_uri)
        if found is not None and is_version_of(row.source_version, found.version):
            return replace(row, source_state=found.state)
    return row


def _target_uri(row: IndexRow, layout: Layout) -> str:
    if row.destination == QUARANTINE:
        return layout.quarantine_uri(str(row.content_sha256))
    return layout.object_uri(*row.uri_parts, region=row.predicted_region)
