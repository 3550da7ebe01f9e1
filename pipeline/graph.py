"""The pipeline, whole: read this page to know what happens to an object."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from pipeline.sources import SOURCES
from pipeline.sources.discovered import REFS
from pipeline.summary import CountAs, Summarise
from transforms.classify import ClassifyAndDecide
from transforms.config import RouteConfig
from transforms.fetch import DECIDED, FILMS, FetchAndExamine
from transforms.index import UNCHANGED_ROWS, SettleRows, WriteIndex
from transforms.lake.index_files import list_index
from transforms.lake.journal import list_journal, read_journal
from transforms.ledger import HeldSources, ListLake
from transforms.place import PLACED, Place
from transforms.refs import FAILED
from transforms.skip import ALONE, RECOVERED, STALE, UNCHANGED, SkipHeld
from transforms.tally import RunTally


def build(pipeline: beam.Pipeline, config: RouteConfig) -> beam.PCollection[Any]:
    """Attach the whole graph to a pipeline.

    Only references and rows cross a shuffle; pixels live from `Fetch` to `Classify`, which run fused.

    Returns:
        One element: the run's summary as it was written.
    """
    lake = config.layout
    matched = pipeline | "Discover" >> SOURCES[config.source](config)
    index = pipeline | "IndexFiles" >> ListLake(lake, list_index)
    journal = (
        pipeline
        | "JournalFiles" >> ListLake(lake, list_journal)
        | "Journal" >> beam.FlatMap(read_journal).with_output_types(Any)
    )
    keys = (
        matched[REFS] | "KeysOfRefs" >> beam.Map(lambda ref: ref.key),
        journal | "KeysOfJournal" >> beam.Map(lambda entry: entry.row.object_key),
    ) | "Keys" >> beam.Flatten()
    held = {"files": index, "keys": keys} | "Held" >> HeldSources()

    todo = {"refs": matched[REFS], "held": held, "journal": journal} | "Skip" >> SkipHeld(config)
    refs = todo["refs"]
    examined = refs | "Spread" >> beam.Reshuffle() | "Fetch" >> FetchAndExamine(config)
    classified = examined[FILMS] | "Classify" >> ClassifyAndDecide(config)

    # Placed branch by branch: a Flatten before would hold every object back until all are decided.
    films = classified | "PlaceFilms" >> Place(config)
    others = examined[DECIDED] | "PlaceOthers" >> Place(config)
    rows = (films[PLACED], others[PLACED], todo[RECOVERED], todo[ALONE]) | "Rows" >> beam.Flatten()
    settled = {
        "rows": rows,
        "stale": todo[STALE],
        "held": held,
        "files": index,
    } | "Settle" >> SettleRows(config)
    indexed = settled["rows"] | "Index" >> WriteIndex(config)

    failed = (matched[FAILED], examined[FAILED], films[FAILED], others[FAILED])
    tallies = (
        matched[REFS]
        | "Versions" >> beam.Map(lambda ref: ref.digest()).with_output_types(bytes)
        | "Distinct" >> beam.Distinct()
        | "Discovered" >> CountAs("discovered"),
        (todo[RECOVERED], todo[ALONE])
        | "AllRecovered" >> beam.Flatten()
        | "Recovered" >> CountAs("recovered"),
        todo[ALONE] | "DiscoveredBefore" >> CountAs("discovered"),
        todo[UNCHANGED] | "Unchanged" >> CountAs("unchanged"),
        settled[UNCHANGED_ROWS] | "UnchangedRows" >> CountAs("unchanged"),
        failed | "AllFailed" >> beam.Flatten() | "Failed" >> beam.Map(RunTally.of_failure),
        indexed,
    )
    return tallies | "Tallies" >> beam.Flatten() | "Summary" >> Summarise(config)
