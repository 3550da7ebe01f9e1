"""Reads and decodes objects, several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig, read_patient_key
from transforms.examine import Examined, examine
from transforms.isolation import Isolated
from transforms.metrics import Count, Spread, count, count_failed, record, record_seconds
from transforms.reasons import Unaccounted
from transforms.refs import FAILED, ObjectRef, failure_of

FILMS, DECIDED = "films", "decided"
BATCH_REFS = 16


@dataclass
class FetchAndExamine(beam.PTransform):  # type: ignore[misc]
    """References to (row, film) in `FILMS`, rows that need no model in `DECIDED`, and `FAILED`."""

    config: RouteConfig

    def expand(self, refs: beam.PCollection[ObjectRef]) -> pvalue.DoOutputsTuple:
        return (
            refs
            | "BatchRefs"
            >> beam.BatchElements(min_batch_size=BATCH_REFS, max_batch_size=BATCH_REFS)
            | "Examine"
            >> beam.ParDo(ExamineFn(self.config))
            .with_output_types(Any)
            .with_outputs(DECIDED, FAILED, main=FILMS)
        )


class ExamineFn(beam.DoFn):  # type: ignore[misc]
    """Examines a batch of references, in as many threads as child processes."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def setup(self) -> None:
        key_file = self._config.patient_key_file
        self._patient_key = read_patient_key(key_file) if key_file else None
        self._pool = ThreadPoolExecutor(self._config.fetch_threads)
        self._idle: SimpleQueue[Isolated] = SimpleQueue()
        limits = self._config.limits
        for _ in range(self._config.fetch_threads):
            child = Isolated(
                timeout_s=limits.max_object_seconds, memory_bytes=limits.max_memory_bytes
            )
            self._idle.put(child)

    def teardown(self) -> None:
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def process(self, refs: Sequence[ObjectRef]) -> Iterator[Any]:
        for ref, outcome in zip(refs, self._pool.map(self._examine, refs), strict=True):
            if isinstance(outcome, Unaccounted):
                count_failed(outcome.reason)
                why = failure_of(ref.uri, outcome, log_uris=self._config.log_uris)
                yield pvalue.TaggedOutput(FAILED, why)
                continue
            count(Count.EXAMINED)
            count(Count.BYTES_READ, ref.size)
            record(Spread.OBJECT_BYTES, ref.size)
            record_seconds(Spread.FETCH_MS, outcome.fetch_s)
            if outcome.decode_s is not None:
                record_seconds(Spread.DECODE_MS, outcome.decode_s)
            if outcome.film is None:
                yield pvalue.TaggedOutput(DECIDED, outcome.row)
            else:
                yield outcome.row, outcome.film

    def _examine(self, ref: ObjectRef) -> Examined | Unaccounted:
        child = self._idle.get()
        try:
            return examine(ref, self._config, self._patient_key, child)
        except Unaccounted as error:
            return error
        finally:
            self._idle.put(child)
