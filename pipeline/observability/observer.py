"""Observe a run: what is exported of it, when. Without options nothing is, and no client is imported."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipeline.observability.metric_table import (
    IN_FLIGHT,
    LAST_POLL,
    LAST_ROW,
    LETTERS,
    OLDEST,
    RETRIED,
    STARTED,
    UNMET,
    WAITING,
)
from pipeline.observability.registry import MetricRegistry
from pipeline.observability.run_metrics import (
    folders_of,
    set_counters,
    set_engine,
    set_failed_run,
    set_last_success,
    set_rows,
    set_run,
    set_storage,
)
from transforms.config.monitoring_options import MonitoringOptions
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.metric_names import CounterName
from transforms.lake.marker import read_marker
from transforms.lake.run_counts import RunCounts
from transforms.lake.run_summaries import read_summaries

if TYPE_CHECKING:
    from pipeline.observability.lineage import Lineage
    from pipeline.observability.otlp import OtlpExport

LOG: Final = logging.getLogger("dicom_router")


@dataclass(frozen=True)
class StreamState:
    """How far a stream is.

    Attributes:
        rows: counts of its rows in the index.
        last_row_at: when a row last appeared, or the start of the stream, seconds since 1970.
        inputs: latest states of its inputs; see `pipeline.sources.poller`.
        dead_letters: number of dead letters in the lake.
        failed: number of failed attempts; None if the engine does not say.
        unmet: number of expectations that the last hour does not meet.
    """

    rows: RunCounts = field(default_factory=RunCounts)
    last_row_at: float = 0.0
    inputs: Sequence[Mapping[str, Any]] = ()
    dead_letters: int = 0
    failed: int | None = None
    unmet: int = 0


class Observer:
    """Observe nothing: what the functions that run a pipeline call.

    Attributes:
        endpoint: where metrics are served, as a sentence for the terminal, or None.
    """

    endpoint: str | None = None

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Record that the run has ended, by an exception or not."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Record the summary of the run."""

    def started(self) -> None:
        """Record that the lake is open and the run starts."""

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Return a context manager for a stage of the run."""
        return contextlib.nullcontext()

    def counting(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Set where the counters of this process are."""

    def engine(self, metrics: Callable[[], Mapping[str, Any] | None]) -> None:
        """Set where the metrics of the engine of a stream are."""

    def streaming(self, state: StreamState) -> None:
        """Record how far a stream is."""

    def aborted(self) -> None:
        """Record that a signal ends the process; called in its handler."""


NO_OBSERVER: Final = Observer()


class RunObserver(Observer):
    """Export the metrics, spans and lineage of a run, as its options say; a context manager around it.

    Nothing here fails or delays the run: what cannot be exported is logged.
    """

    def __init__(
        self, config: RouteConfig, options: MonitoringOptions, kind: str, runner: str
    ) -> None:
        """Check the options.

        Args:
            config: configuration of the run.
            options: what to export.
            kind: kind of the run.
            runner: name of the runner.

        Raises:
            ConfigError: an option cannot be used.
        """
        if problems := options.problems():
            raise ConfigError("; ".join(problems))
        self._config, self._options, self._kind, self._runner = config, options, kind, runner
        self._registry = MetricRegistry(config.policy.label_set.names)
        folders = folders_of(config.layout.root)
        self._registry.on_refresh(lambda: set_storage(self._registry, folders))
        self._engine: Callable[[], Mapping[str, Any] | None] | None = None
        self._otlp: OtlpExport | None = None
        self._lineage: Lineage | None = None
        self._summary: Mapping[str, Any] | None = None
        self._stack = ExitStack()
        if options.lineage:
            from pipeline.observability.lineage import Lineage

            self._lineage = Lineage(config.layout, config.run_id, kind)

    def __enter__(self) -> RunObserver:
        options = self._options
        self._identify()
        if options.metrics_port is not None:
            from pipeline.observability.prometheus import serve_metrics

            serving = serve_metrics(self._registry, options.metrics_address, options.metrics_port)
            try:
                port = self._stack.enter_context(serving)
            except OSError as error:
                raise ConfigError(
                    f"--metrics_port {options.metrics_port} on {options.metrics_address} cannot be used "
                    f"({error.strerror})"
                ) from error
            self.endpoint = f"metrics on http://{_host(options.metrics_address)}:{port}/metrics"
        if options.otlp:
            from pipeline.observability.otlp import OtlpExport

            self._otlp = OtlpExport(self._registry, self._config.router_version)
            self._stack.callback(self._otlp.close)
            span = self._otlp.span(self._kind, **{"dicom_router.run_id": self._config.run_id})
            self._stack.enter_context(span)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with _harmless():
            self._end(error)
        delivering = threading.Thread(target=self._close_lineage, daemon=True)
        delivering.start()  # neither waits for the other
        self._stack.__exit__(None if error is None else type(error), error, None)
        delivering.join()

    def finished(self, summary: Mapping[str, Any]) -> None:
        self._summary = summary

    def started(self) -> None:
        config = self._config
        with _harmless():
            self._identify()
            self._registry.set(STARTED, config.started_at)
            if self._lineage is not None:
                self._lineage.start(
                    config.started_at, config.inputs, self._runner, config.router_version
                )

    def stage(self, name: str) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._otlp is None else self._otlp.span(name)

    def counting(self, counters: Callable[[], Mapping[str, int]]) -> None:
        self._registry.on_refresh(lambda: set_counters(self._registry, counters()))

    def engine(self, metrics: Callable[[], Mapping[str, Any] | None]) -> None:
        self._engine = metrics

    def streaming(self, state: StreamState) -> None:
        with _harmless():
            self._set_stream(state)
            self._write_file()

    def aborted(self) -> None:
        if self._lineage is not None:
            self._lineage.fail(KeyboardInterrupt())
        self._close_lineage()

    def _close_lineage(self) -> None:
        if self._lineage is not None:
            self._lineage.close()

    def _end(self, error: BaseException | None) -> None:
        """Record how the run has ended."""
        self._identify()
        if self._summary is not None:
            set_engine(self._registry, self._summary.get("metrics"))
            set_run(self._registry, self._summary, self._kind)
        elif error is not None:
            set_failed_run(self._registry, self._kind, self._config.started_at)
        else:  # nothing was to be done
            return
        if self._summary is None or not self._summary["complete"]:
            self._find_last_success()
        if self._lineage is not None:
            if self._summary is not None:
                self._lineage.complete(self._summary)
            elif error is not None:
                self._lineage.fail(error)
        self._write_file()

    def _set_stream(self, state: StreamState) -> None:
        registry = self._registry
        set_rows(registry, state.rows)
        registry.set(LAST_ROW, state.last_row_at)
        registry.set(LETTERS, state.dead_letters)
        registry.set(UNMET, state.unmet)
        if inputs := state.inputs:
            waiting = [one["waiting"] for one in inputs if one.get("waiting") is not None]
            registry.set(IN_FLIGHT, sum(one["in_flight"] for one in inputs))
            registry.set(RETRIED, sum(one["retried"] for one in inputs))
            registry.set(OLDEST, max(one.get("oldest_s", 0.0) for one in inputs))
            registry.set(LAST_POLL, min(one["updated_at"] for one in inputs))
            if waiting:
                registry.set(WAITING, sum(waiting))
        if self._engine is not None:
            set_engine(registry, self._engine())
        if state.failed is not None:
            set_counters(registry, {CounterName.FAILED: state.failed})

    def _identify(self) -> None:
        with contextlib.suppress(Exception):  # there is no lake yet, or it cannot be read
            if (marker := read_marker(self._config.layout)) is not None:
                self._registry.set_lake(marker.lake_id)

    def _find_last_success(self) -> None:
        with contextlib.suppress(Exception):  # the lake cannot be read
            for summary in read_summaries(self._config.layout):
                if (
                    summary.get("complete")
                    and "finished_at" in summary
                    and summary.get("kind", self._kind) == self._kind
                ):
                    set_last_success(self._registry, self._kind, summary["finished_at"])
                    return

    def _write_file(self) -> None:
        if (path := self._options.metrics_file) is None:
            return
        from pipeline.observability.prometheus import write_text_file

        try:
            write_text_file(self._registry, path)
        except OSError as error:
            LOG.warning("--metrics_file could not be written (%s)", error.strerror)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log what the block raises: the run does not depend on it."""
    try:
        yield
    except Exception as error:
        LOG.warning("metrics or lineage could not be exported (%s)", type(error).__name__)


def observer_of(
    config: RouteConfig, options: MonitoringOptions, kind: str, runner: str
) -> Observer:
    """Return the observer of a run; `NO_OBSERVER` if nothing is to be exported.

    Raises:
        ConfigError: an option cannot be used.
    """
    if options == MonitoringOptions():
        return NO_OBSERVER
    return RunObserver(config, options, kind, runner)
