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
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.graph import build_streaming
from pipeline.run import checked_options, explained, say_waiting, sweep_scratch
from pipeline.runners import clock_of, for_source
from pipeline.summary import write_summary
from transforms.config import RouteConfig
from transforms.lake import stop
from transforms.lake.catalog import catalog_of
from transforms.lake.commit import today
from transforms.lake.layout import LOCK, WRITER_LOCK
from transforms.lake.lock import exclusive
from transforms.lake.recover import recover
from transforms.lake.rows_of_run import tally_of_run

LOOK_EVERY_S: Final = 0.5
CANCEL_S: Final = 60.0


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
    started_on = today()
    with exclusive(config.layout, say_waiting, names=[WRITER_LOCK]):
        stop.clear(config.layout)
        _make_up(config, quiet=quiet)
        failure = _run_job(config, options, clock, quiet=quiet)
        stopped = stop.said(config.layout, config.run_id, len(config.inputs))
        stop.clear(config.layout)
        _make_up(config, quiet=True)
        left = sum(one.left for one in stopped)
        tally = tally_of_run(config.layout, config.run_id, started_on, left=left)
        if failure is not None:
            raise failure
        return write_summary(tally, config)


def _run_job(
    config: RouteConfig, options: PipelineOptions, clock: str, *, quiet: bool
) -> BaseException | None:
    """Run the job to its end; returns what ended it against our will."""
    pipeline = beam.Pipeline(options=options)
    build_streaming(pipeline, config, clock)
    result = pipeline.run()
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            result.wait_until_finish()
            ended.append(None)
        except Exception as error:
            ended.append(error)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    if not quiet:
        print("streaming; stop it with SIGTERM or Ctrl-C", file=sys.stderr, flush=True)
    with _asking_to_stop(config):
        while not ended:
            time.sleep(LOOK_EVERY_S)
            if len(stop.said(config.layout, config.run_id, len(config.inputs))) == len(
                config.inputs
            ):
                _cancel(result, waiter)
                return None
    return explained(ended[0]) if isinstance(ended[0], Exception) else None


@contextlib.contextmanager
def _asking_to_stop(config: RouteConfig) -> Iterator[None]:
    """Turn the first signal into a request to stop; the next one has its usual effect."""

    def ask(number: int, frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        print("stopping: what was begun is completed first", file=sys.stderr, flush=True)
        stop.ask(config.layout)

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cancel(result: PipelineResult, waiter: threading.Thread) -> None:
    """End a job that has nothing more to do; engines report a cancelled job as an error."""
    with contextlib.suppress(Exception):
        if not PipelineState.is_terminal(result.state):
            result.cancel()
    waiter.join(CANCEL_S)


def _make_up(config: RouteConfig, *, quiet: bool) -> None:
    """Bring into the index what a job has placed that did not come to write its rows."""
    with exclusive(config.layout, say_waiting, names=[LOCK]):
        catalog = catalog_of(config.layout)
        taken_over = recover(config.layout, catalog, config.run_id, config.index_shards)
        sweep_scratch(config)
    if taken_over and not quiet:
        print(f"{taken_over} rows were taken over from a killed run", file=sys.stderr, flush=True)
