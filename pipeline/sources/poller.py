"""What the streaming sources share: they look when the clock ticks, in one place for each input."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam import pvalue

from pipeline.sources.discovered import REFS
from pipeline.sources.pending import PendingObjects
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED
from transforms.lake import drain
from transforms.lake.index_replica import replica_of

LOG: Final = logging.getLogger("dicom_router")
STOP_PATIENCE: Final = 3
"""A source that was asked to stop waits so many times the delay of the index for another row."""


class Poller(ABC):
    """One input of a streaming source, with what it must remember between two looks."""

    def __init__(
        self, config: RouteConfig, named: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing given out.

        Args:
            config: with a streaming source.
            named: the input: a pattern or a subscription.
            clock: monotonic, seconds.
        """
        assert config.stream is not None
        self._config, self._stream = config, config.stream
        self._named = named
        self._clock = clock
        self._replica = replica_of(config.layout)
        self.pending = PendingObjects(
            self._replica,
            limit=config.stream.max_in_flight,
            retry_after=config.stream.retry_after,
        )

    @abstractmethod
    def poll(self, *, stopping: bool) -> Iterator[Any]:
        """Look for what is new, and see to what is done.

        Args:
            stopping: nothing new is given out any more.

        Yields:
            References and tagged failures, as `discovered` gives them.
        """


@dataclass
class PollInputs(beam.PTransform):  # type: ignore[misc]
    """Ticks to references in `REFS`, and `FAILED` for what cannot be looked at."""

    config: RouteConfig
    poller: Callable[[RouteConfig, str], Poller]

    def expand(self, triggers: beam.PCollection[int]) -> pvalue.DoOutputsTuple:
        polled = beam.ParDo(PollFn(self.config, self.poller)).with_output_types(Any)
        return triggers | "Poll" >> polled.with_outputs(FAILED, main=REFS)


class PollFn(beam.DoFn):  # type: ignore[misc]
    """Numbers of inputs to what their pollers find; ticks that come too early are passed over."""

    def __init__(self, config: RouteConfig, poller: Callable[[RouteConfig, str], Poller]) -> None:
        self._config = config
        self._poller = poller

    def process(self, number: int) -> Iterator[Any]:
        yield from _polled_input(self._config, number, self._poller).tick()


class _PolledInput:
    """The poller of one input, used by one thread at a time."""

    def __init__(self, config: RouteConfig, number: int, poller: Poller) -> None:
        assert config.stream is not None
        self._config = config
        self._stream = config.stream
        self._number = number
        self._poller = poller
        self._busy = threading.Lock()
        self._last = float("-inf")
        self._asked_at: float | None = None
        self._fewest_left = sys.maxsize
        self._progress_at = 0.0
        self._has_stopped = False

    def tick(self) -> Iterator[Any]:
        if self._has_stopped or not self._busy.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if now - self._last < self._stream.poll_every / 2:
                return
            self._last = now
            if self._asked_at is None and drain.is_requested(self._config.layout):
                self._asked_at = now
            try:
                yield from self._poller.poll(stopping=self._asked_at is not None)
            except OSError as error:  # a store that does not answer; the next look may find it well
                LOG.warning("input %d cannot be looked at (%s)", self._number, error.strerror)
                return
            self._say_if_stopped()
        finally:
            self._busy.release()

    def _say_if_stopped(self) -> None:
        if self._asked_at is None:
            return
        left = sorted(one.ref.key for one in self._poller.pending)
        if len(left) < self._fewest_left:
            self._fewest_left, self._progress_at = len(left), time.monotonic()
        waited = time.monotonic() - self._progress_at
        if left and waited < STOP_PATIENCE * self._stream.index_every + self._stream.poll_every:
            return
        said = drain.DrainReport(tuple(left))
        drain.report(self._config.layout, self._config.run_id, self._number, said)
        self._has_stopped = True


_POLLED_INPUTS: Final[dict[tuple[str, int], _PolledInput]] = {}
_OPENING: Final = threading.Lock()


def _polled_input(
    config: RouteConfig, number: int, poller: Callable[[RouteConfig, str], Poller]
) -> _PolledInput:
    """Return this process's polling of one input: engines make and drop DoFns as they like."""
    key = config.run_id, number
    with _OPENING:
        if key not in _POLLED_INPUTS:
            made = poller(config, config.inputs[number])
            _POLLED_INPUTS[key] = _PolledInput(config, number, made)
        return _POLLED_INPUTS[key]
