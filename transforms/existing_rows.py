"""Reads from the index what a batch run must know of existing rows.

A lake is far larger than a night. Rows that concern none of a run's objects are dropped while the index
is read, by the keys of those objects; the few that pass meet them in a shuffle. Where a run has so many
objects that their keys are no small side input, nothing is dropped and the join does it all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms.lake.index_files import (
    ExistingRow,
    ExistingVersion,
    read_existing,
    read_versions,
)

MAX_KEYS: Final = 1_000_000
"""Most keys in the side input; a dozen to a hundred bytes each."""

Keys = set[str] | None


@dataclass
class ReadExistingVersions(beam.PTransform):  # type: ignore[misc]
    """Index files to (source_uri, `ExistingVersion`) of the sources that a run is about.

    Input: a dict with "files" and "keys", object keys.
    """

    def expand(
        self, pcolls: dict[str, beam.PCollection[Any]]
    ) -> beam.PCollection[tuple[str, ExistingVersion]]:
        keys = pvalue.AsSingleton(pcolls["keys"] | "Keys" >> beam.CombineGlobally(KeysFn()))
        return pcolls["files"] | "Read" >> beam.FlatMap(read_versions, keys).with_output_types(
            tuple[str, Any]
        )


@dataclass
class ReadExistingRows(beam.PTransform):  # type: ignore[misc]
    """Index files to the `ExistingRow`s of the identities that a run decided.

    Input: a dict with "files" and "identities".
    """

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[ExistingRow]:
        keys = pvalue.AsSingleton(pcolls["identities"] | "Keys" >> beam.CombineGlobally(KeysFn()))
        return pcolls["files"] | "Read" >> beam.FlatMap(read_existing, keys).with_output_types(Any)


class KeysFn(beam.CombineFn):  # type: ignore[misc]
    """Collects distinct keys as a `pyarrow.StringArray`; None once there are more than `MAX_KEYS`."""

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

    def extract_output(self, collected: Keys) -> pa.StringArray | None:
        return None if collected is None else pa.array(sorted(collected), pa.string())
