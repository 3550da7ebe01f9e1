"""Reads from the index what a batch run must know of existing rows.

A lake is far larger than a night. Rows that concern none of a run's objects are dropped while the index
is read, by the keys of those objects; the few that pass meet them in a shuffle. Where a run has so many
objects that their keys are no small side input, nothing is dropped and the join does it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.typehints import with_input_types, with_output_types

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.lake.index_files import (
    ExistingRow,
    ExistingVersion,
    read_existing_rows,
    read_existing_versions,
)

MAX_KEYS: Final = 1_000_000
"""Most keys in the side input; a dozen to a hundred bytes each."""

Keys = set[str] | None


@dataclass
class ReadExistingVersions(
    beam.PTransform[dict[str, PCollection[str]], PCollection[ExistingVersion]]
):
    """Index files to the `ExistingVersion`s of the sources that a run is about.

    Input: a dict with "files" and "keys", object keys.
    """

    def expand(self, pcolls: dict[str, PCollection[str]]) -> PCollection[ExistingVersion]:
        keys = pcolls["keys"] | "Keys" >> beam.CombineGlobally(KeysFn())  # type: ignore[no-untyped-call]
        versions: PCollection[ExistingVersion] = pcolls["files"] | "Read" >> beam.FlatMap(
            lambda uri, keys: read_existing_versions(uri, decode_keys(keys)), AsSingleton(keys)
        ).with_output_types(ExistingVersion)
        return versions


@dataclass
class ReadExistingRows(beam.PTransform[dict[str, PCollection[str]], PCollection[ExistingRow]]):
    """Index files to the `ExistingRow`s of the objects that a run decided.

    Input: a dict with "files" and "identities".
    """

    def expand(self, pcolls: dict[str, PCollection[str]]) -> PCollection[ExistingRow]:
        keys = pcolls["identities"] | "Keys" >> beam.CombineGlobally(KeysFn())  # type: ignore[no-untyped-call]
        rows: PCollection[ExistingRow] = pcolls["files"] | "Read" >> beam.FlatMap(
            lambda uri, keys: read_existing_rows(uri, decode_keys(keys)), AsSingleton(keys)
        ).with_output_types(ExistingRow)
        return rows


@with_input_types(str)
@with_output_types(bytes | None)
class KeysFn(beam.CombineFn):
    """Collect distinct keys, encoded for `decode_keys`; None once there are more than `MAX_KEYS`."""

    def create_accumulator(self) -> Keys:
        return set()

    def add_input(self, collected: Keys, key: str) -> Keys:
        if collected is not None:
            collected.add(key)
            if len(collected) > MAX_KEYS:
                return None
        return collected

    def merge_accumulators(self, several: Iterable[Keys]) -> Keys:
        merged: set[str] = set()
        for collected in several:
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
    """Return the keys that `KeysFn` collected, without copying them; None: all keys matter."""
    if encoded is None:
        return None
    with pa.ipc.open_stream(encoded) as stream:
        return stream.read_next_batch().column(0)
