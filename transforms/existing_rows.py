"""The ledger: what the lake's index says of the objects that a run is about.

A lake is far larger than a night. Rows that concern none of a run's objects are dropped while the
index is read, by the keys of those objects; the few that pass meet them in a shuffle. Where a run has
so many objects that their keys are no small thing to hand round, nothing is dropped and the join does
it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue

from transforms.lake.index_files import ExistingRow, ExistingVersion, read_existing, read_versions
from transforms.lake.layout import Layout

MAX_KEYS: Final = 1_000_000
"""Most keys that are handed round; a dozen to a hundred bytes each."""

Keys = set[str] | None


@dataclass
class ListLakeFiles(beam.PTransform):  # type: ignore[misc]
    """Names of the lake's files of one kind."""

    layout: Layout
    list_files: Callable[[Layout], list[str]]

    def expand(self, pbegin: pvalue.PBegin) -> beam.PCollection[str]:
        list_files = self.list_files
        return (
            pbegin
            | "Lake" >> beam.Create([self.layout])
            | "List" >> beam.FlatMap(lambda lake: list_files(lake)).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
        )


@dataclass
class ReadExistingVersions(beam.PTransform):  # type: ignore[misc]
    """Index files to (source_uri, `ExistingVersion`) of the sources that a run is about.

    Input: a dict with "files" and "keys", object keys.
    """

    def expand(
        self, pcolls: dict[str, beam.PCollection[Any]]
    ) -> beam.PCollection[tuple[str, ExistingVersion]]:
        keys = pvalue.AsSingleton(pcolls["keys"] | "Keys" >> beam.CombineGlobally(KeysFn()))
        return pcolls["files"] | "ReadHeld" >> beam.FlatMap(read_versions, keys).with_output_types(
            tuple[str, tuple[str, Any]]
        )


@dataclass
class ReadExistingRows(beam.PTransform):  # type: ignore[misc]
    """Index files to the `ExistingRow`s of the objects that a run decided.

    Input: a dict with "files" and "identities".
    """

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> beam.PCollection[ExistingRow]:
        keys = pvalue.AsSingleton(pcolls["identities"] | "Keys" >> beam.CombineGlobally(KeysFn()))
        return pcolls["files"] | "ReadLedger" >> beam.FlatMap(
            read_existing, keys
        ).with_output_types(Any)


class KeysFn(beam.CombineFn):  # type: ignore[misc]
    """Gathers distinct keys as a `pyarrow.StringArray`; None once there are more than `MAX_KEYS`."""

    def create_accumulator(self) -> Keys:
        return set()

    def add_input(self, gathered: Keys, key: str) -> Keys:
        if gathered is not None:
            gathered.add(key)
            if len(gathered) > MAX_KEYS:
                return None
        return gathered

    def merge_accumulators(self, several: Iterable[Keys]) -> Keys:
        merged: set[str] = set()
        for gathered in several:
            if gathered is None:
                return None
            merged |= gathered
            if len(merged) > MAX_KEYS:
                return None
        return merged

    def extract_output(self, gathered: Keys) -> pa.StringArray | None:
        return None if gathered is None else pa.array(sorted(gathered), pa.string())
