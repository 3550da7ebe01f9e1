"""Joins references with the lake's index: what the lake holds already is not read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.index_files import LedgerRow, list_index, read_ledger
from transforms.lake.layout import Layout
from transforms.lake.settle import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE
from transforms.metrics import Count, count
from transforms.refs import ObjectRef

UNCHANGED = "unchanged"
"""Tag of the references that the lake holds."""


@dataclass
class ReadLedger(beam.PTransform):  # type: ignore[misc]
    """All rows of the lake's index, as `LedgerRow`."""

    layout: Layout

    def expand(self, pbegin: pvalue.PBegin) -> beam.PCollection[LedgerRow]:
        return (
            pbegin
            | "Index" >> beam.Create([self.layout])
            | "ListIndex" >> beam.FlatMap(list_index).with_output_types(Any)
            | "SpreadIndex" >> beam.Reshuffle()
            | "ReadIndex" >> beam.FlatMap(_rows).with_output_types(Any)
        )


@dataclass
class SkipHeld(beam.PTransform):  # type: ignore[misc]
    """Drops repeated references, and those that the lake holds; these go to `UNCHANGED`.

    Input: a dict with "refs" and "ledger".
    """

    config: RouteConfig

    def expand(self, pcolls: dict[str, beam.PCollection[Any]]) -> pvalue.DoOutputsTuple:
        return (
            {
                "refs": pcolls["refs"] | "KeyRefs" >> beam.Map(lambda r: (r.uri, r)),
                "ledger": pcolls["ledger"] | "KeyLedger" >> beam.Map(lambda k: (k.source_uri, k)),
            }
            | "JoinBySource" >> beam.CoGroupByKey()
            | "SkipHeld"
            >> beam.FlatMap(_unless_held, self.config.reprocess, self.config.model_id)
            .with_output_types(Any)
            .with_outputs(UNCHANGED, main="refs")
        )


def is_held(ref: ObjectRef, known: Iterable[LedgerRow], reprocess: str, model_id: str) -> bool:
    """Whether a reference needs no work.

    With reprocess "model", what another model decided is decided again; rows that no model decided
    (quarantined, not_xray) stand.
    """
    if reprocess == REPROCESS_ALL:
        return False
    models = {k.model_id for k in known if k.source_version == ref.version}
    if reprocess == REPROCESS_MODEL:
        return bool(models & {model_id, None})
    assert reprocess == REPROCESS_NONE
    return bool(models)


def _unless_held(
    joined: tuple[str, dict[str, Any]], reprocess: str, model_id: str
) -> Iterator[ObjectRef | pvalue.TaggedOutput]:
    _, found = joined
    known = list(found["ledger"])
    for ref in sorted(set(found["refs"]), key=lambda r: r.version):
        if is_held(ref, known, reprocess, model_id):
            count(Count.UNCHANGED)
            yield pvalue.TaggedOutput(UNCHANGED, ref)
        else:
            yield ref


def _rows(path: Path) -> Iterator[LedgerRow]:
    return read_ledger(path)
