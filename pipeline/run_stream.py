"""Runs the graph of a streaming source until it is stopped, and gives back the run's summary."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES
from apache_beam.runners.runner import PipelineResult

from pipeline.flink_rest import cancel as cancel_on_flink
from pipeline.graph import build_streaming
from pipeline.metrics_report import metrics_of, write_metrics
from pipeline.run_batch import checked_options, remove_partial_files, report_waiting
from pipeline.runners import clock_of, for_source
from pipeline.sources.periodic_trigger import FLINK
from pipeline.summary import write_summary
from pipeline.user_errors import to_user_error
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.reasons import ProcessingFailure
from transforms.lake import drain
from transforms.lake.append import today
from transforms.lake.count_rows import tally_of_run
from transforms.lake.index_replica import replica_of
from transforms.lake.layout import LOCK, WRITER_LOCK
from transforms.lake.lock import lock_lake
from transforms.lake.recovery import recover

LOOK_EVERY_S: Final = 1.0
CANCEL_S: Final = 60.0
ENDED_BY_ENGINE: Final = (
    "warning: the job was ended on its engine. What it had not placed comes with its savepoint, or is "
    "found again when the stream is started anew"
)


def run_stream(
    config: RouteConfig, *, runner: str, beam_options: Sequence[str] = (), quiet: bool = True
) -> dict[str, Any]:
    """Check a configuration and run it until somebody stops it.

    SIGTERM, SIGINT or `dicom-router stop LAKE` end it in order: the sources give nothing more out,
    what they gave out is placed and indexed, then the job is cancelled. A second signal ends it at
    once; what is lost then is made up for by the next run.

    Raises:
        ConfigError: the run cannot start.
        RuntimeError: the job failed.
    """
    runner = for_source(runner, streaming=True)
    clock = clock_of(runner)
    options = checked_options(config, runner, beam_options)
    master = options.view_as(FlinkRunnerOptions).flink_master
    if clock == FLINK and master in MAGIC_HOST_NAMES:
        raise ConfigError(
            f"--runner {runner} with a streaming source needs --flink_master: HOST:PORT of the "
            "JobManager's REST interface, by which the job is ended"
        )
    started_on = today()
    with lock_lake(config.layout, report_waiting, names=[WRITER_LOCK]):
        drain.clear(config.layout)
        _recover(config, quiet=quiet)
        job = _Job(config, options, clock)
        failure = job.run(quiet=quiet)
        if failure is not None:
            with contextlib.suppress(Exception):  # what ended the job may well prevent this too
                _finish(config, started_on, ended_well=False)
            raise failure
        summary = _finish(config, started_on, ended_well=True)
        if job.metrics:
            summary["metrics"] = job.metrics
            write_metrics(job.metrics, config)
        return summary


def _finish(config: RouteConfig, started_on: str, *, ended_well: bool) -> dict[str, Any]:
    """Index what was placed, and write the summary."""
    stopped = drain.reports(config.layout, config.run_id, len(config.inputs))
    if ended_well and len(stopped) < len(config.inputs):
        print(ENDED_BY_ENGINE, file=sys.stderr, flush=True)
    drain.clear(config.layout)
    _recover(config, quiet=True)
    left = {key for one in stopped for key in one.object_keys}
    tally = tally_of_run(config.layout, config.run_id, started_on, left=left)
    return write_summary(tally, config, ended_well=ended_well)


class _Job:
    """The job on its engine, from its start to its end.

    Attributes:
        metrics: what the engine measured, once the job has stopped.
    """

    def __init__(self, config: RouteConfig, options: PipelineOptions, clock: str) -> None:
        self._config = config
        self._flink = options.view_as(FlinkRunnerOptions).flink_master
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = cloud.job_name or f"dicom-router-{config.run_id.lower()}"
        self._name = cloud.job_name
        self._pipeline = beam.Pipeline(options=options)
        build_streaming(self._pipeline, config, clock)
        self._error: Exception | None = None
        self.metrics: dict[str, Any] | None = None

    def run(self, *, quiet: bool) -> BaseException | None:
        """Run the job until it is stopped; returns what ended it against our will."""
        result = self._pipeline.run()
        waiter = threading.Thread(target=self._wait, args=[result], daemon=True)
        waiter.start()
        if not quiet:
            said = (
                f"job {self._name}; 'dicom-router stop {self._config.layout.root}' ends it in order"
            )
            print(said, file=sys.stderr, flush=True)
        with _signals() as asked:
            while waiter.is_alive():
                time.sleep(LOOK_EVERY_S)
                if self._has_stopped(asked):
                    self.metrics = metrics_of(result)
                    self._cancel(result)
                    waiter.join(CANCEL_S)
                    return None
        return None if self._error is None else to_user_error(self._error)

    def _wait(self, result: PipelineResult) -> None:
        try:
            result.wait_until_finish()
        except Exception as error:  # also that of a job that was cancelled
            self._error = error

    def _has_stopped(self, asked: threading.Event) -> bool:
        """Pass a signal on to the sources, and return whether all of them have stopped."""
        layout, inputs = self._config.layout, len(self._config.inputs)
        try:
            if asked.is_set() and not drain.is_requested(layout):
                print("stopping: what was begun is completed first", file=sys.stderr, flush=True)
                drain.request(layout)
            return len(drain.reports(layout, self._config.run_id, inputs)) == inputs
        except (OSError, ProcessingFailure):  # a store that does not answer now
            return False

    def _cancel(self, result: PipelineResult) -> None:
        """End a job that has nothing more to do."""
        try:
            if self._flink and self._flink not in MAGIC_HOST_NAMES:
                cancel_on_flink(self._flink, self._name)
            else:
                result.cancel()
        except Exception as error:
            said = f"the job {self._name} could not be cancelled ({type(error).__name__})"
            print(f"warning: {said}; cancel it on its engine", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Give an event that the first SIGTERM or SIGINT sets; the next one has its usual effect."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _recover(config: RouteConfig, *, quiet: bool) -> None:
    """Bring into the index what a job has placed that did not come to write its rows."""
    with lock_lake(config.layout, report_waiting, names=[LOCK]):
        replica = replica_of(config.layout)
        recovered_row = recover(config.layout, replica, config.run_id, config.index_shards)
        remove_partial_files(config)
    if recovered_row and not quiet:
        print(
            f"{recovered_row} rows were taken over from a killed run", file=sys.stderr, flush=True
        )
