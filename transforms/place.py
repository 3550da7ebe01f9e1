"""Puts each object's bytes where its row says, before any row of it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import INDEX_ONLY, LINK, RouteConfig
from transforms.held_bytes import HELD
from transforms.lake import store
from transforms.lake.layout import QUARANTINE, Layout, uri_to_path
from transforms.lake.schema import IndexRow
from transforms.metrics import Count, count
from transforms.reasons import Unaccounted
from transforms.refs import FAILED, failure_of

PLACED = "placed"


@dataclass
class Place(beam.PTransform):  # type: ignore[misc]
    """Decided rows to rows with `object_uri` in `PLACED`, and `FAILED`."""

    config: RouteConfig

    def expand(self, rows: beam.PCollection[IndexRow]) -> pvalue.DoOutputsTuple:
        return rows | "Put" >> beam.ParDo(PlaceFn(self.config)).with_output_types(Any).with_outputs(
            FAILED, main=PLACED
        )


class PlaceFn(beam.DoFn):  # type: ignore[misc]
    """Places one object. Running it again changes nothing."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config

    def process(self, row: IndexRow) -> Iterator[Any]:
        try:
            placed = place(row, self._config)
        except Unaccounted as error:
            count(Count.FAILED)
            why = failure_of(row.source_uri, error, log_uris=self._config.log_uris)
            yield pvalue.TaggedOutput(FAILED, why)
            return
        count(Count.PLACED)
        yield placed


def place(row: IndexRow, config: RouteConfig) -> IndexRow:
    """Put an object into its sink and return its row with `object_uri`.

    Raises:
        Unaccounted: the source changed meanwhile, or the lake's storage refused.
    """
    if config.placement == INDEX_ONLY:
        HELD.take(row.content_sha256 or "")
        return replace(row, object_uri=row.source_uri)
    target = target_of(row, config.layout)
    sha256 = str(row.content_sha256)
    scratch = config.layout.scratch(row.destination)
    held = HELD.take(sha256)
    if config.placement == LINK:
        store.put_link(target, uri_to_path(row.source_uri), sha256, scratch=scratch)
    elif held is not None:
        store.put_bytes(target, held, scratch=scratch, sha256=sha256)
    else:
        store.put_copy(target, uri_to_path(row.source_uri), sha256, scratch=scratch)
    return replace(row, object_uri=str(target))


def target_of(row: IndexRow, layout: Layout) -> Path:
    """Return where an object belongs."""
    if row.destination == QUARANTINE:
        return layout.quarantine_path(str(row.content_sha256))
    return layout.object_path(
        str(row.destination),
        str(row.study_instance_uid),
        str(row.series_instance_uid),
        str(row.sop_instance_uid),
        str(row.content_sha256),
    )
