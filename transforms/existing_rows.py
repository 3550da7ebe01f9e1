"""Read the existing rows that a batch run needs from the index.

A lake is much larger than a run. Rows that do not match the keys of the run's objects are dropped while
the index is read; the others are joined with the objects in a shuffle. If a run has too many keys for a
side input, all rows are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.typehints import with_input_types, with_output_types

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.in_flight import InFlightDoFn
from transforms.lake.content_tables import READ_THREADS
from transforms.lake.existing_rows import (
    ExistingRow,
    ExistingVersion,
    read_existing_rows,
    read_existing_versions,
)

MAX_KEYS: Final = 1_000_000
"""Maximum number of keys in the side input; each takes 12 to 100 bytes."""

Keys = set[str] | None


@dataclass
class ReadExistingVersions(
    beam.PTransform[dict[str, PCollection[str]], PCollection[ExistingVersion]]
):
    """Read the existing versions of the sources of a run.

    Takes a dict with "files", URIs of index files, and "keys", object keys.
    """

    def expand(self, pcolls: dict[str, PCollection[str]]) -> PCollection[ExistingVersion]:
        keys = pcolls["keys"] | "Keys" >> beam.CombineGlobally(KeysFn())  # type: ignore[no-untyped-call]
        versions: PCollection[ExistingVersion] = pcolls["files"] | "Read" >> beam.ParDo(
            ReadFn(read_existing_versions), AsSingleton(keys)
        ).with_output_types(ExistingVersion)
        return versions


@dataclass
class ReadExistingRows(beam.PTransform[dict[str, PCollection[str]], PCollection[ExistingRow]]):
    """Read the existing rows with the identities of a run's rows.

    Takes a dict with "files", URIs of index files, and "identities".
    """

    def expand(self, pcolls: dict[str, PCollection[str]]) -> PCollection[ExistingRow]:
        keys = pcolls["identities"] | "Keys" >> beam.CombineGlobally(KeysFn())  # type: ignore[no-untyped-call]
        rows: PCollection[ExistingRow] = pcolls["files"] | "Read" >> beam.ParDo(
            ReadFn(read_existing_rows), AsSingleton(keys)
        ).with_output_types(ExistingRow)
        return rows


class ReadFn(InFlightDoFn[tuple[str, pa.StringArray], list[object]]):
    """Read records from index files, from several at the same time."""

    def __init__(self, read: Callable[[str, pa.StringArray | None], Iterator[object]]) -> None:
        """Read by a function that yields the records of a file with given keys; None yields all."""
        self._read = read

    def setup(self) -> None:
        self._executor = ThreadPoolExecutor(READ_THREADS)

    def teardown(self) -> None:
        self._executor.shutdown()

    def process(
        self,
        uri: str,
        encoded_keys: bytes | None,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[object]:
        keys = decode_keys(encoded_keys)
        if keys is None:  # all records, of which not even those of one file may fit into memory
            yield from self._read(uri, None)
            return
        self.submit((uri, keys), timestamp, window)
        yield from self.completed(READ_THREADS)

    def start(self, file: tuple[str, pa.StringArray]) -> Future[list[object]]:
        return self._executor.submit(lambda: list(self._read(*file)))

    def outputs(self, file: tuple[str, pa.StringArray], records: list[object]) -> Iterable[object]:
        return records


@with_input_types(str)
@with_output_types(bytes | None)
class KeysFn(beam.CombineFn):
    """Collect distinct keys, encoded for `decode_keys`; None if there are more than `MAX_KEYS`."""

    def create_accumulator(self) -> Keys:
        return set()

    def add_input(self, collected: Keys, key: str) -> Keys:
        if collected is not None:
            collected.add(key)
            if len(collected) > MAX_KEYS:
                return None
        return collected

    def merge_accumulators(self, accumulators: Iterable[Keys]) -> Keys:
        merged: set[str] = set()
        for collected in accumulators:
            if collected is None:
                return None
            merged |= collected
            if len(merged) > MAX_KEYS:
                return None
        return merged

    def extract_output(self, collected: Keys) -> bytes | None:
        if collected is None:
            return None
        keys = pa.record_batch([pa.array(sorted(collected), pa.string())], ["key"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, keys.schema) as stream:
            stream.write_batch(keys)
        return bytes(sink.getvalue())


def decode_keys(encoded: bytes | None) -> pa.StringArray | None:
    """Return the keys that `KeysFn` collected, without a copy; None if there were too many."""
    if encoded is None:
        return None
    with pa.ipc.open_stream(encoded) as stream:
        return stream.read_next_batch().column(0)
