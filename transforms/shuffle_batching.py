"""Batches records by key before a shuffle."""

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
from transforms.lake.index_files import hash_of

MAX_INCOMPLETE: Final = 256
"""Incomplete batches per bundle. Their records are not encoded yet, and take several times the memory."""

SOURCE_GROUPS: Final = 256
"""Groups of records of the same sources."""

R = TypeVar("R")
Place: TypeAlias = tuple[int, int]
"""The key that a record is grouped by, and the part of the group that it belongs to."""


@with_output_types(tuple[int, RecordBatch])
@dataclass(eq=False)  # Beam hashes DoFns by identity
class BatchForShuffleFn(beam.DoFn, Generic[R]):
    """Emit batches of records, keyed by their group: full ones, and incomplete ones in the end.

    Attributes:
        record_type: Type of the records; one of `CODECS`.
        kind: Kind of the batches.
        place_of: Returns where a record belongs.
    """

    record_type: type[R]
    kind: str
    place_of: Callable[[R], Place]

    def start_bundle(self) -> None:
        self._incomplete: dict[Place, list[R]] = {}

    def process(self, record: R) -> Iterator[tuple[int, RecordBatch]]:
        place = self.place_of(record)
        waiting = self._incomplete.setdefault(place, [])
        waiting.append(record)
        if len(waiting) == SHUFFLE_BATCH:
            yield self._pop(place)
        elif len(self._incomplete) > MAX_INCOMPLETE:
            yield self._pop(next(iter(self._incomplete)))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for place in list(self._incomplete):
            yield GlobalWindows.windowed_value(self._pop(place))

    def _pop(self, place: Place) -> tuple[int, RecordBatch]:
        key, part = place
        records = self._incomplete.pop(place)
        return key, RecordBatch.of(CODECS[self.record_type], records, kind=self.kind, part=part)


def key_of_source(uri: str) -> Place:
    """Return where a record of a source belongs, so that all records of one source meet."""
    return hash_of(uri) % SOURCE_GROUPS, 0


def records_of(batches: Iterable[RecordBatch], kind: str, record_type: type[R]) -> Iterator[R]:
    """Yield the records of all batches of a kind, of which only one batch's are in memory."""
    for batch in batches:
        if batch.kind == kind:
            yield from batch.records(CODECS[record_type])
