"""Batch records by key before a shuffle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints import with_output_types
from apache_beam.utils.windowed_value import WindowedValue

from transforms.coders import CODECS
from transforms.core.batch_sizes import SHUFFLE_BATCH
from transforms.core.record_batch import RecordBatch
from transforms.lake.source_states import group_of

MAX_INCOMPLETE: Final = 256
"""Maximum number of incomplete batches per bundle. Their records are not encoded yet, and take several
times the memory."""

R = TypeVar("R")
ShuffleKey: TypeAlias = tuple[int, int]
"""The key by which a record is grouped, and the part of that group to which it belongs."""


@with_output_types(tuple[int, RecordBatch])
@dataclass(eq=False)  # Beam hashes DoFns by identity
class BatchForShuffleFn(beam.DoFn, Generic[R]):
    """Emit batches of records of the same key: full ones, and at the end of a bundle incomplete ones.

    Attributes:
        record_type: Type of the records; a key of `CODECS`.
        kind: Kind of the batches.
        key_of: Returns the key of a record.
    """

    record_type: type[R]
    kind: str
    key_of: Callable[[R], ShuffleKey]

    def start_bundle(self) -> None:
        self._incomplete: dict[ShuffleKey, list[R]] = {}

    def process(self, record: R) -> Iterator[tuple[int, RecordBatch]]:
        key = self.key_of(record)
        records = self._incomplete.setdefault(key, [])
        records.append(record)
        if len(records) == SHUFFLE_BATCH:
            yield self._pop(key)
        elif len(self._incomplete) > MAX_INCOMPLETE:
            yield self._pop(next(iter(self._incomplete)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for key in list(self._incomplete):
            yield GlobalWindows.windowed_value(self._pop(key))

    def _pop(self, key: ShuffleKey) -> tuple[int, RecordBatch]:
        group, part = key
        records = self._incomplete.pop(key)
        return group, RecordBatch.of(CODECS[self.record_type], records, kind=self.kind, part=part)


def key_of_source(uri: str) -> ShuffleKey:
    """Return the key of a record by its source URI."""
    return group_of(uri), 0


def records_of(batches: Iterable[RecordBatch], kind: str, record_type: type[R]) -> Iterator[R]:
    """Yield the records of the batches of a kind, decoding one batch at a time."""
    for batch in batches:
        if batch.kind == kind:
            yield from batch.records(CODECS[record_type])
