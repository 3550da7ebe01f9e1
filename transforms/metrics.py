"""Names of all metrics, and a tally of the counts in this process for the live progress line.

The completeness equation never rests on these: engines count again what they run again.
"""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum
from typing import Final, NamedTuple

from apache_beam.metrics.metric import Metrics

from transforms.core.reasons import Reason, Status
from transforms.lake.run_counts import RunCounts

NAMESPACE: Final = "dicom_router"


class CounterName(StrEnum):
    """Counters, in objects unless the name says otherwise."""

    DISCOVERED = "discovered"
    UNCHANGED = "unchanged"
    RECOVERED = "recovered"
    BYTES_READ = "bytes_read"
    EXAMINED = "examined"
    DECODED_IN_FULL = "decoded_whole"
    PLACED = "placed"
    FAILED = "failed"
    REPEATED = "repeated"


COUNTER_DESCRIPTIONS: Final[dict[CounterName, str]] = {
    CounterName.DISCOVERED: "objects that the source named",
    CounterName.UNCHANGED: "objects that the lake holds, skipped before they were read",
    CounterName.RECOVERED: "rows taken over from a killed run",
    CounterName.BYTES_READ: "bytes of the objects examined",
    CounterName.EXAMINED: "objects read, whatever came of them",
    CounterName.DECODED_IN_FULL: "films that no fast decoder read, decoded whole by pydicom instead",
    CounterName.PLACED: "objects put where their rows say",
    CounterName.FAILED: "objects that could not be accounted for",
    CounterName.REPEATED: "placed objects of a stream whose rows the index held already",
}
"""What each counter counts."""


class DistributionName(StrEnum):
    """Distributions; each name ends in its unit."""

    FETCH_MS = "fetch_ms"
    DECODE_MS = "decode_ms"
    INFERENCE_MS = "inference_ms"
    BATCH_IMAGES = "batch_films"
    PLACE_MS = "place_ms"
    INDEX_MS = "index_ms"
    OBJECT_BYTES = "object_bytes"
    DELAY_S = "delay_s"

    @property
    def step(self) -> str:
        """The name without its unit."""
        return self.rpartition("_")[0]

    @property
    def unit(self) -> str:
        """The unit of every value."""
        return self.rpartition("_")[2]


class DistributionDescription(NamedTuple):
    """What a distribution measures.

    Attributes:
        each: what one value is of.
        text: what one value says.
    """

    each: str
    text: str


DISTRIBUTION_DESCRIPTIONS: Final[dict[DistributionName, DistributionDescription]] = {
    DistributionName.FETCH_MS: DistributionDescription("object", "reading and hashing an object"),
    DistributionName.DECODE_MS: DistributionDescription(
        "object", "parsing and decoding an object, seen from outside its child process"
    ),
    DistributionName.INFERENCE_MS: DistributionDescription(
        "call", "a call of the model, with a batch of films"
    ),
    DistributionName.BATCH_IMAGES: DistributionDescription("call", "films in a call of the model"),
    DistributionName.PLACE_MS: DistributionDescription("object", "putting an object into its sink"),
    DistributionName.INDEX_MS: DistributionDescription("file", "writing an index file"),
    DistributionName.OBJECT_BYTES: DistributionDescription(
        "object", "size of an object that was examined"
    ),
    DistributionName.DELAY_S: DistributionDescription(
        "object", "from an object's coming to its source to its row, in a stream"
    ),
}


class BeamDistribution(NamedTuple):
    """A distribution that a step of Beam's records.

    Attributes:
        namespace: in which engines show it.
        name: by which they show it.
        divisor: that brings its values to our unit.
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
"""What RunInference records by itself, so that nothing is measured twice."""


class ProgressCounters:
    """Counts of this process, safe between threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, number: int) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += number

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts."""
        with self._lock:
            return dict(self._counts)

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._counts.clear()


class WholeMilliseconds:
    """Milliseconds as whole numbers, which is all that Beam's distributions hold.

    What is below one is carried on to the next value, so that sums and means are right.
    """

    def __init__(self) -> None:
        self._carried = 0.0
        self._lock = threading.Lock()

    def of(self, seconds: float) -> int:
        """Return the whole milliseconds that are due."""
        with self._lock:
            due = self._carried + seconds * 1000
            whole = int(due)
            self._carried = due - whole
            return whole


PROGRESS: Final = ProgressCounters()
_COUNTERS: Final = {name: Metrics.counter(NAMESPACE, name) for name in CounterName}
_STATUSES: Final = {s: Metrics.counter(NAMESPACE, f"status_{s}") for s in Status}
_REASONS: Final = {r: Metrics.counter(NAMESPACE, f"reason_{r}") for r in Reason}
_SPREADS: Final = {
    name: Metrics.distribution(NAMESPACE, name)
    for name in DistributionName
    if name not in BEAM_DISTRIBUTIONS
}
_WHOLE_MS: Final = {name: WholeMilliseconds() for name in _SPREADS if name.unit == "ms"}


def count(name: CounterName, number: int = 1) -> None:
    """Count in Beam's metrics and in this process's tally."""
    _COUNTERS[name].inc(number)
    PROGRESS.add(name, number)


def count_failed(reason: Reason) -> None:
    """Count an object that could not be accounted for."""
    count(CounterName.FAILED)
    _REASONS[reason].inc()


def count_indexed(tally: RunCounts) -> None:
    """Count rows by status and reason as they go into the index."""
    for status in Status:
        if number := tally.counts[status]:
            _STATUSES[status].inc(number)
    for (_, _, reason), number in tally.reasons.items():
        _REASONS[Reason(reason)].inc(number)


def record(name: DistributionName, value: int) -> None:
    """Add a value to a distribution; call it in the bundle's own thread, elsewhere it is lost."""
    _SPREADS[name].update(value)


def record_seconds(name: DistributionName, seconds: float) -> None:
    """Like `record`, of a distribution in milliseconds."""
    record(name, _WHOLE_MS[name].of(seconds))
