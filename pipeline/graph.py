"""The graph of the pipeline: the steps from a source to the index and the run summary."""

from __future__ import annotations

from typing import TypeAlias

import apache_beam as beam
from apache_beam.pvalue import PCollection

from models.classify import ClassifyAndDecide
from pipeline.finish_run import CountDiscovered, FinishRun
from pipeline.slices import ReadSlice, Slice
from pipeline.sources.outputs import REFS, SKIPPED
from pipeline.sources.periodic_trigger import PeriodicTrigger
from pipeline.sources.registry import SOURCES
from transforms.append_index_batch import AppendIndexBatch
from transforms.append_index_stream import AppendIndexStream, SweepJournalFn
from transforms.batch_refs import BatchRefs
from transforms.config.route_config import RouteConfig
from transforms.config.stream_options import StreamConfig
from transforms.core.choices import REPROCESS_NONE
from transforms.core.object_ref import FAILED, Failure, ObjectRef, log_failure
from transforms.core.reasons import FORGOTTEN
from transforms.existing_rows import ReadExistingVersions
from transforms.fetch import DECIDED, IMAGES, FetchAndExamine
from transforms.filter_ingested import (
    COUNTS,
    RECOVERED,
    TO_PROCESS,
    FilterIngested,
    RedistributeRefs,
    Reprocessing,
)
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import IndexRow
from transforms.open_lake import FILES, JOURNALED, LOG_ENDS, OpenLake
from transforms.place import PLACED, Place
from transforms.sandbox.examine import ExamineOptions

Rows: TypeAlias = "PCollection[IndexRow]"
Failures: TypeAlias = "PCollection[Failure]"


def decide_and_place(
    refs: PCollection[ObjectRef], config: RouteConfig
) -> tuple[tuple[Rows, Rows], tuple[Failures, ...], PCollection[str]]:
    """Turn references into rows whose objects are placed, failures, and keys of forgotten objects.

    Batch and streaming share it.

    Only references and rows cross a shuffle. Pixels exist only from `Fetch` to `Classify`, which are
    fused.
    """
    examined = refs | "Fetch" >> FetchAndExamine(
        ExamineOptions.from_config(config),
        concurrency=config.concurrency,
        patient_key_file=config.patient_key_file,
        log_uris=config.log_uris,
        layout=config.layout,
    )
    reloading = config.stream or StreamConfig()
    classified = examined[IMAGES] | "Classify" >> ClassifyAndDecide(
        config.model_uri,
        config.own_policy,
        device=config.device,
        accelerator=config.accelerator,
        batch_size=config.batch_size,
        shadow_model=config.shadow_model,
        models=reloading.models,
        model_poll_interval=reloading.model_poll_interval,
        concurrency=config.concurrency,
    )

    # Each branch has its own placement: a Flatten before it would wait until all objects are decided.
    place = Place(
        config.layout,
        placement=config.placement,
        fingerprint=config.fingerprint(),
        concurrency=config.concurrency,
        log_uris=config.log_uris,
        note_absent=config.reprocess != REPROCESS_NONE,
        write_sr=config.write_sr,
        limits=config.limits,
    )
    images = classified | "PlaceImages" >> place
    others = examined[DECIDED] | "PlaceOthers" >> place
    failed = (examined[FAILED], images[FAILED], others[FAILED])
    return (images[PLACED], others[PLACED]), failed, examined[FORGOTTEN]


def build_streaming(pipeline: beam.Pipeline, config: RouteConfig, impulse: str) -> None:
    """Add the graph of a streaming run to a pipeline.

    The sources look up objects in the index before they emit them, and rows are resolved and appended per
    shard: all state is in the lake's index.

    Args:
        pipeline: the pipeline.
        config: configuration with a streaming source.
        impulse: impulse of `PeriodicTrigger` that the engine needs.
    """
    assert config.stream is not None
    triggers = pipeline | "PeriodicTrigger" >> PeriodicTrigger(
        len(config.inputs), config.stream.poll_interval, impulse
    )
    found = triggers | "Discover" >> SOURCES[config.source](config)
    batches = BatchRefs(config.batch_size, max_wait_s=config.stream.max_batch_wait)
    placed, failed, _ = decide_and_place(found[REFS] | "BatchRefs" >> batches, config)
    _ = placed | "Rows" >> beam.Flatten() | "Index" >> AppendIndexStream(config)
    _ = triggers | "SweepJournal" >> beam.ParDo(SweepJournalFn(config))
    _ = (
        (found[FAILED], *failed)
        | "AllFailed" >> beam.Flatten()
        | "LogFailures" >> beam.Map(log_failure)
    )


def build(
    pipeline: beam.Pipeline,
    config: RouteConfig,
    *,
    opened: bool = False,
    epoch: str | None = None,
    part: Slice | None = None,
) -> PCollection[str]:
    """Add the graph of a batch run to a pipeline.

    Args:
        pipeline: the pipeline.
        config: configuration of the run.
        opened: whether this process has opened the lake.
        epoch: epoch of the lake's lock, if this process holds it.
        part: a slice of the run, if this process has listed the inputs.

    Returns:
        One element: the run's summary as JSON; an empty one if another slice follows.
    """
    layout = config.layout
    lake = pipeline | "OpenLake" >> OpenLake(
        layout,
        config.run_id,
        config.ingest_date,
        config.fingerprint(),
        config.policy.label_set,
        opened,
        config.policy.publish,
    )
    index_files = lake[FILES] | "IndexFiles" >> beam.Reshuffle()
    source = SOURCES[config.source](config) if part is None else ReadSlice(part)
    discovered = pipeline | "Discover" >> source
    keys = discovered[REFS] | "KeysOfRefs" >> beam.Map(lambda ref: ref.key).with_output_types(str)
    versions = {"files": index_files, "keys": keys} | "Existing" >> ReadExistingVersions()

    reprocessing = Reprocessing(
        config.reprocess, config.model_id, config.policy_id, config.overrule_people
    )
    filtered = {
        "refs": discovered[REFS],
        "existing": versions,
        "journaled": lake[JOURNALED],
    } | "Filter" >> FilterIngested(reprocessing, layout, config.run_id)
    placed, failed, forgotten = decide_and_place(
        filtered[TO_PROCESS] | "Refs" >> RedistributeRefs(), config
    )
    indexed = {
        "rows": (*placed, filtered[RECOVERED]),
        "versions": versions,
        "files": index_files,
        "log_ends": lake[LOG_ENDS],
    } | "Index" >> AppendIndexBatch(
        layout, config.run_id, config.ingest_date, config.index_shards, config.reprocess
    )
    counts = (
        discovered[REFS]
        | "Discovered" >> CountDiscovered(),  # before any step that could lose some
        discovered[SKIPPED],
        filtered[COUNTS],
        (discovered[FAILED], *failed)
        | "AllFailed" >> beam.Flatten()
        | "Failed" >> beam.Map(RunCounts.of_failure).with_output_types(RunCounts),
        forgotten
        | "Forgotten"
        >> beam.Map(lambda key: RunCounts.of_count(FORGOTTEN, 1)).with_output_types(RunCounts),
        indexed,
    )
    summary: PCollection[str] = (
        counts | "Counts" >> beam.Flatten() | "FinishRun" >> FinishRun(config, epoch, part)
    )
    return summary
