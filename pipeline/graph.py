"""The pipeline, whole: read this page to know what happens to an object."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from pipeline.sources.files import REFS, MatchFiles
from pipeline.summary import Summarise
from transforms.classify import ClassifyAndDecide
from transforms.config import RouteConfig
from transforms.fetch import DECIDED, FAILED, FILMS, FetchAndExamine
from transforms.index import UNCHANGED_ROWS, SettleRows, WriteIndex
from transforms.ledger import UNCHANGED, ReadLedger, SkipHeld
from transforms.place import PLACED, Place
from transforms.tally import RunTally


def build(pipeline: beam.Pipeline, config: RouteConfig) -> beam.PCollection[Any]:
    """Attach the whole graph to a pipeline.

    Only references and rows cross a shuffle; pixels live from `Fetch` to `Classify`, which run fused.

    Returns:
        One element: the run's summary as it was written.
    """
    matched = pipeline | "Match" >> MatchFiles(config)
    ledger = pipeline | "Ledger" >> ReadLedger(config.layout)

    refs = {"refs": matched[REFS], "ledger": ledger} | "Skip" >> SkipHeld(config)
    examined = refs["refs"] | "Spread" >> beam.Reshuffle() | "Fetch" >> FetchAndExamine(config)
    classified = examined[FILMS] | "Classify" >> ClassifyAndDecide(config)

    placed = (
        (examined[DECIDED], classified) | "Decided" >> beam.Flatten() | "Place" >> Place(config)
    )
    settled = {"rows": placed[PLACED], "ledger": ledger} | "Settle" >> SettleRows(config)
    indexed = settled["rows"] | "Index" >> WriteIndex(config)

    tallies = (
        refs["refs"] | "Discovered" >> beam.Map(lambda _: RunTally.of_count("discovered")),
        refs[UNCHANGED] | "Unchanged" >> beam.Map(lambda _: RunTally.of_unchanged()),
        settled[UNCHANGED_ROWS]
        | "UnchangedRows" >> beam.Map(lambda n: RunTally.of_count("unchanged", n)),
        (matched[FAILED], examined[FAILED], placed[FAILED])
        | "AllFailed" >> beam.Flatten()
        | "Failed" >> beam.Map(RunTally.of_failure),
        indexed,
    )
    return tallies | "Tallies" >> beam.Flatten() | "Summary" >> Summarise(config)
