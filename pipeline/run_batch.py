"""Run a batch pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.audit.trail import AuditTrail
from pipeline.graph import build, build_streaming
from pipeline.interrupt import exit_on_interrupt
from pipeline.local_servers import create_pipeline
from pipeline.metrics_report import metrics_of, sum_metrics, write_metrics
from pipeline.observability.observer import NO_OBSERVER, Observer
from pipeline.progress import Progress, RecordState
from pipeline.runners import beam_options_of, impulse_of, require_accelerators, require_reach
from pipeline.slices import slices_of
from pipeline.sources.archives import require_copied
from pipeline.sources.dicomweb import first_match
from pipeline.sources.inventory import Entry
from pipeline.sources.listing import list_objects
from pipeline.sources.manifest import first_entry
from pipeline.summary import read_summary
from pipeline.user_errors import to_user_error
from transforms.config.policy import OFF
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.choices import COPY, DICOMWEB, FILES, LINK
from transforms.core.object_ref import ObjectRef
from transforms.lake import drain
from transforms.lake.files import remove_partial_files
from transforms.lake.header_reliability import read_reliability, update_reliability
from transforms.lake.index_files import count_rows
from transforms.lake.label_sets import record_label_set
from transforms.lake.layout import LOCK
from transforms.lake.lock import lock_lake, require_hard_links
from transforms.lake.marker import require_claimable
from transforms.lake.migration import open_lake
from transforms.lake.recovery import prepare_recovery
from transforms.lake.table_settings import record_settings
from transforms.metrics import PROGRESS
from transforms.storage.schemes import archives, is_local
from transforms.storage.selection import SKIP_MEANINGS, Skipped


def run(
    config: RouteConfig,
    *,
    runner: str,
    beam_options: Sequence[str] = (),
    quiet: bool = True,
    observer: Observer = NO_OBSERVER,
    audit: AuditTrail | None = None,
) -> dict[str, Any]:
    """Check a configuration, run the pipeline and return the run's summary.

    Args:
        config: configuration of the run.
        runner: name of the runner; see `pipeline.runners.RUNNERS`.
        beam_options: options of Beam as command line arguments.
        quiet: whether to omit the progress line.
        observer: exports what happens.
        audit: where events are reported after every slice but the last one.

    Raises:
        ConfigError: the run cannot start.
        RuntimeError: the run has failed.
    """
    options = checked_options(config, runner, beam_options)
    _check_first_matches(config)
    require_claimable(config.layout)
    with contextlib.ExitStack() as locks:
        with observer.stage("lock"):
            lock = locks.enter_context(lock_lake(config.layout, timeout=config.lock_timeout))
        with observer.stage("prepare"):
            if config.placement == LINK:
                require_hard_links(config.layout)
            remove_partial_files(config.layout)
            open_lake(config.layout)
            if audit is not None:
                audit.try_report_derived(
                    config.run_id
                )  # the run can replace rows about derived objects
            record_label_set(config.layout, config.policy.label_set)
            record_settings(config.layout, config.policy.publish)
            config = with_header_reliability(config)
            prepare_recovery(config.layout, config.run_id, config.fingerprint())
        observer.started()
        observer.counting(PROGRESS.snapshot)
        with (
            Progress(quiet=quiet),
            RecordState(config),
            exit_on_interrupt(locks.close, observer.aborted),
            observer.stage("pipeline"),
        ):
            try:
                metrics = _run_pipelines(config, options, lock.epoch, audit)
            except Exception as error:
                raise to_user_error(error) from error
            finally:
                archives().close()
        summary = read_summary(config)
        if summary is None:
            raise RuntimeError("the run wrote no summary; run the same command again")
        if metrics:
            summary["metrics"] = metrics
            write_metrics(metrics, config)
        if summary["complete"]:
            remove_partial_files(config.layout)  # of workers that the engine has replaced
    return summary


def _run_pipelines(
    config: RouteConfig, options: PipelineOptions, epoch: str | None, audit: AuditTrail | None
) -> dict[str, Any] | None:
    """Run a pipeline for each slice of a run, or one that lists the inputs; return the metrics of all.

    Args:
        config: configuration of the run.
        options: options of Beam.
        epoch: epoch of the lake's lock.
        audit: as for `run`.
    """
    found: list[dict[str, Any] | None] = []
    with slices_of(config, options) as slices:
        for part in slices:
            own = config if part is None else part.config_of(config)
            if found:  # as the next run would
                prepare_recovery(own.layout, own.run_id, own.fingerprint())
            pipeline = create_pipeline(options, allow_open_ports=config.allow_open_ports)
            build(pipeline, own, opened=True, epoch=epoch, part=part)
            result = pipeline.run()
            result.wait_until_finish()
            found.append(metrics_of(result))
            if audit is not None and part is not None and not part.is_last:
                audit.try_report(config.run_id)
    return sum_metrics(found)


def describe(config: RouteConfig, *, runner: str, beam_options: Sequence[str] = ()) -> None:
    """Check a configuration and write the description of a job that an engine starts later.

    Dataflow's flex templates need this. No process holds the lake's lock or waits for the summary.

    Raises:
        ConfigError: the run cannot start.
    """
    options = checked_options(config, runner, beam_options)
    if config.is_streaming:
        _open_for_stream(config)
    with contextlib.suppress(OSError):  # no access from here: headers count by the prior
        config = config.with_header_reliability(read_reliability(config.layout))
    pipeline = create_pipeline(options)
    if config.is_streaming:
        build_streaming(pipeline, config, impulse_of(runner))
    else:
        _check_first_matches(config)
        build(pipeline, config)
    pipeline.run()


def _open_for_stream(config: RouteConfig) -> None:
    """Make a lake ready for a stream that no process waits for, and withdraw a request to stop."""
    require_claimable(config.layout)
    with lock_lake(config.layout, names=[LOCK], timeout=config.lock_timeout):
        open_lake(config.layout)
        record_label_set(config.layout, config.policy.label_set)
        record_settings(config.layout, config.policy.publish)
    drain.clear(config.layout)


def checked_options(
    config: RouteConfig, runner: str, beam_options: Sequence[str]
) -> PipelineOptions:
    """Check a configuration and return Beam's options for its runner.

    Raises:
        ConfigError: the run cannot start.
    """
    config.check()
    options = beam_options_of(beam_options, runner)
    options.view_as(StandardOptions).streaming = config.is_streaming
    require_reach(config, runner)
    require_accelerators(config, runner, options)
    return options


def with_header_reliability(
    config: RouteConfig, count: Callable[[str], int] = count_rows
) -> RouteConfig:
    """Return the configuration with what its lake shows about headers, if the policy uses it.

    Args:
        config: of a run; no other run may write to the lake.
        count: returns the number of rows of an index file.
    """
    if config.policy.header_evidence == OFF:
        return config
    return config.with_header_reliability(
        update_reliability(config.layout, config.policy.label_set, count)
    )


def _check_first_matches(config: RouteConfig) -> None:
    """Raise `ConfigError` if an input matches nothing, as a misspelled path, or an archive at once.

    The source checks the other matches when it lists them, before anything is placed.
    """
    if config.allow_empty and config.placement == COPY:
        return
    empty = []
    for number, pattern in enumerate(config.inputs, 1):
        name = f"input {number} ({pattern})"
        first = _first_match(number, pattern, config)
        if isinstance(first, (ObjectRef, Entry)):
            require_copied(first.uri, config)
        if config.allow_empty:
            continue
        if isinstance(first, OSError) and not is_local(pattern):
            raise ConfigError(f"{name} cannot be listed ({first.strerror}); correct it")
        if first is None:
            empty.append(f"{name} matches no object")
        elif isinstance(first, Skipped):
            empty.append(f"{name} matches no object, only {SKIP_MEANINGS[first.why]}")
    if empty:
        raise ConfigError(f"{'; '.join(empty)}; correct it, or allow it with --allow_empty")


def _first_match(number: int, pattern: str, config: RouteConfig) -> object | None:
    """Return the first match of an input or error of listing it, else a skipped name, else None."""
    if config.source == FILES:
        skipped = None
        for found in list_objects([pattern], config.selection):
            if not isinstance(found, Skipped):
                return found
            skipped = skipped or found
        return skipped
    if config.source == DICOMWEB:
        return first_match(pattern, config)
    return first_entry(number, config)
