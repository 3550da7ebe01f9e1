"""Polling shared by the streaming sources: one poller per input, driven by `PeriodicTrigger`."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PCollection

from pipeline.sources.outputs import REFS, SourceOutput
from pipeline.sources.retry_pending import PendingObjects
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import ProcessingFailure
from transforms.lake import drain
from transforms.lake.index_replica import replica_of
from transforms.lake.run_state import StateWriter

LOG: Final = logging.getLogger("dicom_router")
MAX_RETRY_DELAY_S: Final = 60.0
MAX_KEYS: Final = 10
"""Maximum number of object keys in a state."""
DRAIN_TIMEOUT_FACTOR: Final = 3
"""A draining source stops waiting if no row has appeared for this many times `index_interval`."""


class Poller(ABC):
    """One input of a streaming source, with its objects in flight.

    Attributes:
        pending: the objects in flight.
        skipped: number of names that the last poll skipped, by `Skip`.
        waiting: number of objects that the last poll found and that are still to be emitted; None if it
            is unknown.
    """

    def __init__(self, config: RouteConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no object in flight.

        Args:
            config: of a run with a streaming source.
            clock: returns monotonic time in seconds.
        """
        assert config.stream is not None
        self._config, self._stream = config, config.stream
        self._clock = clock
        self._replica = replica_of(config.layout)
        self.skipped: Counter[str] = Counter()
        self.waiting: int | None = None
        self.pending = PendingObjects(
            self._replica,
            limit=config.stream.max_in_flight,
            retry_after=config.stream.retry_after,
        )

    def oldest_age(self) -> float:
        """Return for how many seconds the oldest object has been in flight; 0 if none is."""
        return self.pending.oldest_age(self._clock())

    @abstractmethod
    def poll(self, *, draining: bool) -> Iterator[SourceOutput]:
        """Drop ingested objects from `pending`, then emit new objects and retries.

        Args:
            draining: whether to emit nothing more.

        Yields:
            Elements of `outputs.to_output`.

        Raises:
            OSError: the input or the lake does not respond.
            ProcessingFailure: the lake refused a write.
        """


@dataclass
class PollInputs(beam.PTransform[PCollection[int], DoOutputsTuple]):
    """Poll inputs. Takes input numbers; returns references in `REFS` and failures in `FAILED`."""

    config: RouteConfig
    poller: Callable[[RouteConfig, str], Poller]

    def expand(self, triggers: PCollection[int]) -> DoOutputsTuple:
        polled = beam.ParDo(PollFn(self.config, self.poller)).with_output_types(
            ObjectRef, **{FAILED: Failure}
        )
        outputs: DoOutputsTuple = triggers | "Poll" >> polled.with_outputs(FAILED, main=REFS)
        return outputs


class PollFn(beam.DoFn):
    """Poll the input of each number, in the process-wide session of that input."""

    def __init__(self, config: RouteConfig, poller: Callable[[RouteConfig, str], Poller]) -> None:
        self._config = config
        self._poller = poller

    def setup(self) -> None:
        replica_of(self._config.layout).preload(for_rows=False)

    def process(self, number: int) -> Iterator[SourceOutput]:
        yield from _session(self._config, number, self._poller).poll()


class _PollSession:
    """Poll one input at most once per poll interval, in one thread at a time, until it is drained."""

    def __init__(self, config: RouteConfig, number: int, poller: Poller) -> None:
        assert config.stream is not None
        self._config = config
        self._stream = config.stream
        self._number = number
        self._poller = poller
        self._polling = threading.Lock()
        self._polled_at = float("-inf")
        self._outage = _Outage(number, config.stream.poll_interval)
        self._draining = False
        self._drained = False
        self._fewest_pending = sys.maxsize
        self._progress_at = 0.0
        self._state = StateWriter(config.layout, config.run_id, str(number))
        self._state_at = float("-inf")

    def poll(self) -> Iterator[SourceOutput]:
        """Poll unless another thread does, the last poll was just now, or the input is drained."""
        if self._drained or not self._polling.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if now - self._polled_at < self._stream.poll_interval / 2:
                return
            self._polled_at = now
            self._draining = self._draining or drain.is_requested(self._config.layout)
            if not self._draining and now < self._outage.retry_at:
                return
            try:
                yield from self._poller.poll(draining=self._draining)
                self._outage.end()
            except (OSError, ProcessingFailure) as error:  # transient: a later poll tries again
                self._outage.extend(error)
            if now - self._state_at >= self._stream.log_interval:
                self._state_at = now
                self._write_state()
            if self._draining:  # also in an outage, or the stream would not end before it
                self._report_if_drained()
        finally:
            self._polling.release()

    def _write_state(self) -> None:
        """Write how many objects are in flight, and which are retried."""
        pending = list(self._poller.pending)
        retried = sorted(one.ref.key for one in pending if one.attempts > 1)
        self._state.write(
            in_flight=len(pending),
            waiting=self._poller.waiting,
            oldest_s=round(self._poller.oldest_age(), 1),
            retried=len(retried),
            retried_keys=retried[:MAX_KEYS],
            draining=self._draining,
        )

    def _report_if_drained(self) -> None:
        """Report that the source has drained once nothing is pending, or no more rows appear."""
        pending = tuple(sorted(one.ref.key for one in self._poller.pending))
        now = time.monotonic()
        if len(pending) < self._fewest_pending:
            self._fewest_pending, self._progress_at = len(pending), now
        timeout = DRAIN_TIMEOUT_FACTOR * self._stream.index_interval + self._stream.poll_interval
        if pending and now - self._progress_at < timeout:
            return
        report = drain.DrainReport(pending, dict(self._poller.skipped))
        try:
            drain.report(self._config.layout, self._config.run_id, self._number, report)
        except (OSError, ProcessingFailure) as error:  # the next poll reports again
            self._outage.extend(error)
            return
        self._drained = True


class _Outage:
    """The time since the last successful poll of an input, if polls fail.

    One line in the log when it begins and one when it ends. Meanwhile polls become less frequent.

    Attributes:
        retry_at: monotonic time before which the input is not polled.
    """

    def __init__(self, number: int, poll_interval: float) -> None:
        self._number = number
        self._poll_interval = poll_interval
        self._began_at: float | None = None
        self._delay = poll_interval
        self.retry_at = float("-inf")

    def extend(self, error: OSError | ProcessingFailure) -> None:
        """Record a failed poll."""
        now = time.monotonic()
        if self._began_at is None:
            why = error.strerror if isinstance(error, OSError) else error
            LOG.warning("input %d cannot be polled (%s); trying until it can", self._number, why)
            self._began_at = now
        self._delay = min(2 * self._delay, max(MAX_RETRY_DELAY_S, self._poll_interval))
        self.retry_at = now + self._delay

    def end(self) -> None:
        """Record a successful poll."""
        if self._began_at is not None:
            seconds = time.monotonic() - self._began_at
            LOG.warning("input %d can be polled again, after %.0f s", self._number, seconds)
        self._began_at, self._delay, self.retry_at = None, self._poll_interval, float("-inf")


_SESSIONS: Final[dict[tuple[str, int], _PollSession]] = {}
"""Sessions of this process by run and input. Engines drop and recreate DoFns between bundles, which must
not lose the objects in flight. Beam's `Shared` keeps alive only the object that was acquired last."""
_SESSIONS_LOCK: Final = threading.Lock()


def _session(
    config: RouteConfig, number: int, poller: Callable[[RouteConfig, str], Poller]
) -> _PollSession:
    key = config.run_id, number
    with _SESSIONS_LOCK:
        if key not in _SESSIONS:
            _SESSIONS[key] = _PollSession(config, number, poller(config, config.inputs[number]))
        return _SESSIONS[key]
