"""Record metrics, in Beam and in this process for the progress line.

The completeness equation never depends on metrics: engines count retried work again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from apache_beam.metrics.metric import Metrics

from transforms.core.metric_names import COUNTER_DESCRIPTIONS as COUNTER_DESCRIPTIONS
from transforms.core.metric_names import DISTRIBUTION_DESCRIPTIONS as DISTRIBUTION_DESCRIPTIONS
from transforms.core.metric_names import CounterName as CounterName
from transforms.core.metric_names import DistributionName as DistributionName
from transforms.core.reasons import Reason, Status
from transforms.lake.run_counts import RunCounts

NAMESPACE: Final = "dicom_router"


class BeamDistribution(NamedTuple):
    """A distribution that Beam records.

    Attributes:
        namespace: Namespace of the metric.
        name: Name of the metric.
        divisor: Converts its values to the unit of the `DistributionName`.
    """

    namespace: str
    name: str
    divisor: int


RUN_INFERENCE: Final = "BeamML_PyTorch"
BEAM_DISTRIBUTIONS: Final[dict[DistributionName, BeamDistribution]] = {
    DistributionName.INFERENCE_MS: BeamDistribution(
        RUN_INFERENCE, "inference_batch_latency_micro_secs", 1000
    ),
    DistributionName.BATCH_IMAGES: BeamDistribution(
        RUN_INFERENCE, "inference_request_batch_size", 1
    ),
}
"""Distributions that RunInference records."""


class ProgressCounters:
    """Counters of this process. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, number: int) -> None:
        """Increment a counter."""
        with self._lock:
            self._counts[name] += number

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counters."""
        with self._lock:
            return dict(self._counts)

    def reset(self) -> None:
        """Reset all counters to zero."""
        with self._lock:
            self._counts.clear()


class WholeMilliseconds:
    """Convert seconds to whole milliseconds, as Beam's distributions only have integers.

    The remainder is carried over to the next value, so that sums and means are right. Thread-safe.
    """

    def __init__(self) -> None:
        self._remainder_ms = 0.0
        self._lock = threading.Lock()

    def convert(self, seconds: float) -> int:
        """Return whole milliseconds."""
        with self._lock:
            exact = self._remainder_ms + seconds * 1000
            whole = int(exact)
            self._remainder_ms = exact - whole
            return whole


PROGRESS: Final = ProgressCounters()
_COUNTERS: Final = {name: Metrics.counter(NAMESPACE, name) for name in CounterName}
_STATUSES: Final = {s: Metrics.counter(NAMESPACE, f"status_{s}") for s in Status}
_REASONS: Final = {r: Metrics.counter(NAMESPACE, f"reason_{r}") for r in Reason}
_DISTRIBUTIONS: Final = {
    name: Metrics.distribution(NAMESPACE, name)
    for name in DistributionName
    if name not in BEAM_DISTRIBUTIONS
}
_WHOLE_MS: Final = {name: WholeMilliseconds() for name in _DISTRIBUTIONS if name.unit == "ms"}


def count(name: CounterName, number: int = 1) -> None:
    """Increment a counter in Beam and in this process."""
    _COUNTERS[name].inc(number)
    PROGRESS.add(name, number)


def count_listed(discovered: int, failed: Iterable[str]) -> None:
    """Count in Beam what this process has listed, and counted in its own counters, before the pipeline.

    Args:
        discovered: number of references.
        failed: reasons of failures.
    """
    _COUNTERS[CounterName.DISCOVERED].inc(discovered)
    for reason in failed:
        _COUNTERS[CounterName.FAILED].inc()
        _REASONS[Reason(reason)].inc()


def count_failed(reason: Reason) -> None:
    """Count an object that failed, by its reason."""
    count(CounterName.FAILED)
    _REASONS[reason].inc()


def count_indexed(counts: RunCounts) -> None:
    """Count rows that are written to the index, by status and reason."""
    for status in Status:
        if number := counts.counts[status]:
            _STATUSES[status].inc(number)
    for (_, _, reason), number in counts.reasons.items():
        _REASONS[Reason(reason)].inc(number)


def record(name: DistributionName, value: int) -> None:
    """Add a value to a distribution. Has no effect outside the thread that processes the bundle."""
    _DISTRIBUTIONS[name].update(value)


def record_seconds(name: DistributionName, seconds: float) -> None:
    """Add a duration in seconds to a distribution in milliseconds; otherwise as `record`."""
    record(name, _WHOLE_MS[name].convert(seconds))
