"""Classify the objects of a lake by another model, in the steps of the normal pipeline on any runner."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import PCollection, TaggedOutput

from models.classify import ClassifyAndDecide
from pipeline.interrupt import exit_on_interrupt
from pipeline.local_servers import create_pipeline
from pipeline.progress import Progress
from pipeline.reroute.plan import Rules, classified_rows
from pipeline.reroute.predictions import (
    Outputs,
    Predictions,
    folder_of,
    write_predictions,
)
from pipeline.run_batch import checked_options
from pipeline.user_errors import to_user_error
from transforms.config.policy import OFF
from transforms.config.route_config import RouteConfig
from transforms.core.choices import INDEX_ONLY
from transforms.core.object_ref import (
    FAILED,
    Failure,
    ObjectRef,
    failure_of,
    log_failure,
    object_key,
)
from transforms.core.reasons import BY_PERSON, ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure
from transforms.fetch import IMAGES, FetchAndExamine
from transforms.lake.erasure_places import LIST_SUFFIX, erase_forgotten_predictions
from transforms.lake.files import put_if_absent, remove_all
from transforms.lake.index_files import open_index_file, parquet_bytes, read_index
from transforms.lake.layout import Layout
from transforms.lake.probabilities import probabilities_of
from transforms.lake.schema import IndexRow
from transforms.lake.view_columns import view_numbers, views_of
from transforms.metrics import CounterName, count
from transforms.sandbox.examine import ExamineOptions
from transforms.storage.schemes import archives, join, storage_of

BATCH: Final = 1_000
"""Number of predictions in a file."""


def classify_objects(
    config: RouteConfig,
    rules: Rules,
    *,
    runner: str,
    beam_options: Sequence[str] = (),
    quiet: bool = True,
) -> Predictions:
    """Return the predictions of a model for the images of a lake that another model decided.

    Predictions of earlier calls are reused. The lake's objects are only read.

    Args:
        config: configuration with the model; its inputs are ignored.
        rules: the rows to decide again.
        runner: name of the runner; see `pipeline.runners.RUNNERS`.
        beam_options: options of Beam as command line arguments.
        quiet: whether to omit the progress line.

    Raises:
        ConfigError: the run cannot start.
        RuntimeError: the run has failed.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    layout = config.layout
    folder = folder_of(layout, config.model_id, config.frame_number)
    missing = _without_prediction(layout, rules, Predictions.read(folder, len(rules.labels)))
    if missing:
        config = replace(config, placement=INDEX_ONLY)  # bytes are not kept for placement
        options = checked_options(config, runner, beam_options)
        listed = _write_list(layout, folder, missing)
        try:
            with Progress(quiet=quiet), exit_on_interrupt(lambda: None):
                pipeline = create_pipeline(options, allow_open_ports=config.allow_open_ports)
                build_classification(pipeline, config, listed, folder)
                try:
                    pipeline.run().wait_until_finish()
                except Exception as error:
                    raise to_user_error(error) from error
                finally:
                    archives().close()
        finally:
            remove_all([listed])
        erase_forgotten_predictions(layout)
    return Predictions.read(folder, len(rules.labels))


def build_classification(
    pipeline: beam.Pipeline, config: RouteConfig, listed: str, folder: str
) -> None:
    """Add the graph that classifies listed objects to a pipeline.

    Args:
        pipeline: the pipeline.
        config: configuration with the model.
        listed: URI of a Parquet file with the URIs of the objects.
        folder: folder of the predictions.
    """
    refs = (
        pipeline
        | "List" >> beam.Create([listed])
        | "ReadList" >> beam.FlatMap(_read_list).with_output_types(str)
        | "Redistribute" >> beam.Reshuffle()
        | "Stat"
        >> beam.FlatMap(_ref_of, config.layout)
        .with_output_types(ObjectRef, **{FAILED: Failure})
        .with_outputs(FAILED, main="refs")
    )
    examined = refs["refs"] | "Fetch" >> FetchAndExamine(
        ExamineOptions.from_config(config), config.concurrency
    )
    classified: PCollection[IndexRow] = examined[IMAGES] | "Classify" >> ClassifyAndDecide(
        config.model_uri,
        replace(config.own_policy, header_evidence=OFF),  # which would remove regions
        device=config.device,
        accelerator=config.accelerator,
        batch_size=config.batch_size,
        concurrency=config.concurrency,
    )
    _ = (
        classified
        | "Outputs"
        >> beam.FlatMap(_outputs, config.policy.label_set.names).with_output_types(Outputs)
        | "BatchOutputs" >> beam.BatchElements(min_batch_size=BATCH, max_batch_size=BATCH)
        | "Write" >> beam.Map(lambda batch: write_predictions(config.layout, folder, batch))
    )
    _ = (
        (refs[FAILED], examined[FAILED])
        | "Failed" >> beam.Flatten()
        | "LogFailures" >> beam.Map(_log_failure, config.layout.root, listed)
    )


def _without_prediction(layout: Layout, rules: Rules, known: Predictions) -> list[pa.Table]:
    """Return `object_uri` and `object_key` of the images that need a prediction and have none."""

    def read(files: Sequence[str]) -> list[pa.Table]:
        found = []
        for uri in files:
            for rows in classified_rows(uri, rules, every_column=True):
                rows = rows.filter(pc.not_equal(rows["model_id"], rules.model_id))
                if not rules.overrule_people:
                    decided_by = pc.fill_null(rows["decided_by"], "")
                    rows = rows.filter(pc.not_equal(decided_by, BY_PERSON))
                _, is_known = known.find(rows["content_sha256"].to_pylist())
                rows = rows.filter(pc.invert(pa.array(is_known, pa.bool_())))
                if len(rows):
                    found.append(rows.select(["object_uri", "object_key"]))
        return found

    return read_index(layout, read)


def _write_list(layout: Layout, folder: str, objects: Sequence[pa.Table]) -> str:
    """Write the list of objects to classify; return its URI."""
    data = parquet_bytes(pa.concat_tables(objects))
    target = join(folder, f"list-{hashlib.sha256(data).hexdigest()[:20]}{LIST_SUFFIX}")
    put_if_absent(target, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return target


def _read_list(listed: str) -> Iterator[str]:
    with open_index_file(listed) as file:
        for batch in file.iter_batches(columns=["object_uri"]):
            yield from batch.column(0).to_pylist()


def _ref_of(object_uri: str, layout: Layout) -> Iterator[ObjectRef | TaggedOutput[str, Failure]]:
    uri = layout.absolute(object_uri)
    try:
        found = storage_of(uri).stat(uri)
        if found is None:
            raise ProcessingFailure(Stage.FETCH, Reason.DISAPPEARED)
    except OSError as error:
        yield TaggedOutput(
            FAILED, failure_of(uri, read_failure(error, Stage.FETCH), log_uris=False)
        )
    except ProcessingFailure as error:
        yield TaggedOutput(FAILED, failure_of(uri, error, log_uris=False))
    else:
        count(CounterName.DISCOVERED)
        yield ObjectRef.of(found)


def _outputs(row: IndexRow, labels: Sequence[str]) -> Iterator[Outputs]:
    """Yield the prediction of a classified row; none if the model failed on the image."""
    probabilities = probabilities_of(row, labels)
    if probabilities is not None and row.ood_score is not None:
        count(CounterName.CLASSIFIED)
        views = view_numbers(views_of(row), labels)
        name, confidence, code = row.region or ("", 0.0, None)
        yield (
            str(row.content_sha256),
            (*probabilities, row.ood_score, *views),
            (name, confidence, code or ""),
        )


def _log_failure(failure: Failure, root: str, listed: str) -> None:
    """Log a failure by the object key of its source, not of the object in the lake."""
    key = _source_keys(root, listed).get(failure.object_key, failure.object_key)
    log_failure(replace(failure, object_key=key))


@functools.cache
def _source_keys(root: str, listed: str) -> dict[str, str]:
    layout = Layout(root)
    with open_index_file(listed) as file:
        rows = file.read().to_pylist()
    return {object_key(layout.absolute(row["object_uri"])): row["object_key"] for row in rows}
