"""Run a streaming pipeline until it is stopped."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence, Set
from typing import Any, Final

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES
from apache_beam.runners.runner import PipelineResult

from pipeline.audit.trail import AuditTrail
from pipeline.derived import write_missing_derived
from pipeline.flink_rest import cancel as cancel_on_flink
from pipeline.graph import build_streaming
from pipeline.interrupt import exit_on_interrupt, handlers
from pipeline.local_servers import create_pipeline
from pipeline.metrics_report import counter_of, metrics_of, write_metrics
from pipeline.observability.observer import NO_OBSERVER, Observer
from pipeline.run_batch import checked_options, with_header_reliability
from pipeline.runners import for_source, impulse_of
from pipeline.signals import SIGNALS
from pipeline.sources.archives import require_copied
from pipeline.sources.periodic_trigger import FLINK
from pipeline.stream_monitor import StreamMonitor
from pipeline.summary import write_summary
from pipeline.user_errors import to_user_error
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.choices import LINK
from transforms.core.reasons import ProcessingFailure
from transforms.lake import drain
from transforms.lake.files import remove_partial_files
from transforms.lake.index_files import list_index
from transforms.lake.index_replica import replica_of
from transforms.lake.label_sets import record_label_set
from transforms.lake.layout import LOCK, WRITER_LOCK
from transforms.lake.lock import lock_lake, require_hard_links
from transforms.lake.marker import require_claimable
from transforms.lake.migration import open_lake
from transforms.lake.published_tables import keep_in_step
from transforms.lake.recovery import recover
from transforms.lake.run_counts import RunCounts, count_stream
from transforms.lake.run_state import clear_states
from transforms.lake.table_settings import record_settings
from transforms.metrics import CounterName
from transforms.storage.local import is_file
from transforms.storage.schemes import is_local

DRAIN_POLL_S: Final = 1.0
CANCEL_TIMEOUT_S: Final = 60.0
CANCELLED_ON_ENGINE: Final = (
    "warning: the job ended on its engine without a drain; objects in flight are in its savepoint, or "
    "are discovered again when the stream is restarted"
)


def run_stream(
    config: RouteConfig,
    *,
    runner: str,
    beam_options: Sequence[str] = (),
    quiet: bool = True,
    observer: Observer = NO_OBSERVER,
    audit: AuditTrail | None = None,
) -> dict[str, Any]:
    """Check a configuration, run the pipeline until it is stopped and return the run's summary.

    SIGTERM, SIGINT and `dicom-router stop LAKE` drain the stream: the sources stop, objects in flight are
    placed and indexed, then the job is cancelled. A second signal ends the process at once; the next run
    recovers the objects in flight.

    Args:
        config: configuration with a streaming source.
        runner: name of the runner; see `pipeline.runners.RUNNERS`.
        beam_options: options of Beam as command line arguments.
        quiet: whether to omit messages about the job and recovery.
        observer: exports what happens.
        audit: where events are reported at every `--log_interval`.

    Raises:
        ConfigError: the run cannot start.
        RuntimeError: the job has failed.
    """
    runner = for_source(runner, streaming=True)
    impulse = impulse_of(runner)
    options = checked_options(config, runner, beam_options)
    master = options.view_as(FlinkRunnerOptions).flink_master
    if impulse == FLINK and master in MAGIC_HOST_NAMES:
        raise ConfigError(
            f"--runner {runner} with a streaming source needs --flink_master: HOST:PORT of the "
            "JobManager's REST API, through which the job is cancelled"
        )
    for uri in config.inputs:
        if is_file(uri) or not is_local(uri):
            require_copied(uri, config)
    require_claimable(config.layout)
    with contextlib.ExitStack() as locks:
        lock = lock_lake(config.layout, names=[WRITER_LOCK], timeout=config.lock_timeout)
        locks.enter_context(lock)
        if config.placement == LINK:
            require_hard_links(config.layout)
        drain.clear(config.layout)
        clear_states(config.layout)
        before = frozenset(list_index(config.layout))
        recovered = _recover(config)
        if options.view_as(PortableOptions).environment_type == "LOOPBACK":
            replica_of(config.layout).preload()  # the workers are in this process
        if recovered and not quiet:
            print(
                f"recovered {recovered} rows from an interrupted run", file=sys.stderr, flush=True
            )
        config = with_header_reliability(config, replica_of(config.layout).count_rows)
        observer.started()
        monitor = StreamMonitor(config, before, quiet=quiet, observer=observer, audit=audit)
        job = _StreamJob(config, options, impulse, monitor)
        with (
            exit_on_interrupt(locks.close, observer.aborted),
            contextlib.closing(monitor),
            observer.stage("pipeline"),
        ):
            failure = job.run(quiet=quiet, observer=observer)
        if failure is not None:
            with contextlib.suppress(Exception):  # the cause of the failure may affect this too
                _finish(config, before, recovered, completed=False)
            raise failure
        summary = _finish(config, before, recovered, completed=True)
        if job.metrics:
            summary["metrics"] = job.metrics
            write_metrics(job.metrics, config)
        return summary


def _finish(
    config: RouteConfig, before: Set[str], recovered: int, *, completed: bool
) -> dict[str, Any]:
    """Index placed objects that have no row, derive objects, and write the summary."""
    drained = drain.reports(config.layout, config.run_id, len(config.inputs))
    if completed and len(drained) < len(config.inputs):
        print(CANCELLED_ON_ENGINE, file=sys.stderr, flush=True)
    drain.clear(config.layout)
    clear_states(config.layout)
    _recover(config)
    with lock_lake(config.layout, names=[LOCK], timeout=config.lock_timeout):
        derived = write_missing_derived(
            config.layout, config.policy.derive, config.run_id, config.limits
        )
    unfinished = {key for report in drained for key in report.object_keys}
    own = count_stream(config.layout, config.run_id, before, unfinished=unfinished)
    skipped = (RunCounts.of_skipped(why, n) for one in drained for why, n in one.skipped.items())
    counts = RunCounts.sum((own, RunCounts.of_count("recovered", recovered), *skipped))
    return write_summary(counts, config, job_succeeded=completed, derived=derived)


class _StreamJob:
    """A streaming job on its engine.

    Attributes:
        metrics: result of `metrics_of` after the job has drained.
    """

    def __init__(
        self, config: RouteConfig, options: PipelineOptions, impulse: str, monitor: StreamMonitor
    ) -> None:
        self._config = config
        self._monitor = monitor
        self._flink = options.view_as(FlinkRunnerOptions).flink_master
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = cloud.job_name or f"dicom-router-{config.run_id.lower()}"
        self._name = cloud.job_name
        self._pipeline = create_pipeline(options, allow_open_ports=config.allow_open_ports)
        build_streaming(self._pipeline, config, impulse)
        self._error: Exception | None = None
        self.metrics: dict[str, Any] | None = None

    def run(self, *, quiet: bool, observer: Observer) -> BaseException | None:
        """Run the job until it has drained; return its error if it has failed."""
        result = self._pipeline.run()
        observer.engine(functools.partial(metrics_of, result, warn=False))
        waiter = threading.Thread(target=self._wait, args=[result], daemon=True)
        waiter.start()
        if not quiet:
            hint = f"job {self._name}; stop it with: dicom-router stop {self._config.layout.root}"
            print(hint, file=sys.stderr, flush=True)
        with _stop_signals() as signalled:
            while waiter.is_alive():
                time.sleep(DRAIN_POLL_S)
                self._monitor.update(functools.partial(counter_of, result, CounterName.FAILED))
                if self._has_drained(signalled):
                    self.metrics = metrics_of(result)
                    self._cancel(result)
                    waiter.join(CANCEL_TIMEOUT_S)
                    return None
        return None if self._error is None else to_user_error(self._error)

    def _wait(self, result: PipelineResult) -> None:
        try:
            result.wait_until_finish()
        except Exception as error:  # also raised when the job is cancelled
            self._error = error

    def _has_drained(self, signalled: threading.Event) -> bool:
        """Request a drain after a signal, and return whether all sources have drained."""
        layout, inputs = self._config.layout, len(self._config.inputs)
        try:
            if signalled.is_set() and not drain.is_requested(layout):
                print("stopping: finishing objects in flight first", file=sys.stderr, flush=True)
                drain.request(layout)
            return len(drain.reports(layout, self._config.run_id, inputs)) == inputs
        except (OSError, ProcessingFailure):  # transient: the store does not respond
            return False

    def _cancel(self, result: PipelineResult) -> None:
        """Cancel a job that has drained."""
        try:
            if self._flink and self._flink not in MAGIC_HOST_NAMES:
                cancel_on_flink(self._flink, self._name)
            else:
                result.cancel()
        except Exception as error:
            print(
                f"warning: job {self._name} could not be cancelled ({type(error).__name__}); "
                "cancel it on its engine",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; a second one has its previous effect."""
    signalled = threading.Event()
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: object) -> None:
        for one, handler in previous.items():
            signal.signal(one, handler)
        signalled.set()

    with handlers(handle):
        yield signalled


def _recover(config: RouteConfig) -> int:
    """Index placed objects that have no row; return their number."""
    layout = config.layout
    with lock_lake(layout, names=[LOCK], timeout=config.lock_timeout):
        open_lake(layout)
        record_label_set(layout, config.policy.label_set)
        record_settings(layout, config.policy.publish)
        recovered = recover(layout, config.run_id, config.index_shards, replica_of(layout))
        remove_partial_files(layout)
    keep_in_step(layout)
    return recovered
