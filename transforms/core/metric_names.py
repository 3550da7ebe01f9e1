"""The names of counters and distributions, and what they measure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class CounterName(StrEnum):
    """Counters, in objects unless the name says otherwise."""

    DISCOVERED = "discovered"
    UNCHANGED = "unchanged"
    FORGOTTEN = "forgotten"
    RECOVERED = "recovered"
    BYTES_READ = "bytes_read"
    EXAMINED = "examined"
    DECODED_BY_FALLBACK = "decoded_by_fallback"
    CLASSIFIED = "classified"
    PLACED = "placed"
    REPORTS = "reports"
    REPORTS_FAILED = "reports_failed"
    FAILED = "failed"
    ALREADY_INDEXED = "already_indexed"
    DEAD_LETTERS = "dead_letters"


COUNTER_DESCRIPTIONS: Final[dict[CounterName, str]] = {
    CounterName.DISCOVERED: "objects that the source listed",
    CounterName.UNCHANGED: "objects skipped before reading because the lake has a current row for them",
    CounterName.FORGOTTEN: "objects that were erased from the lake and are kept out of it",
    CounterName.RECOVERED: "results recovered from an interrupted run",
    CounterName.BYTES_READ: "bytes of the examined objects",
    CounterName.EXAMINED: "objects read, with any result",
    CounterName.DECODED_BY_FALLBACK: "images decoded by pydicom because no fast decoder supports them",
    CounterName.CLASSIFIED: "objects of a lake that reroute has classified by another model",
    CounterName.PLACED: "objects placed in their sink",
    CounterName.REPORTS: "structured reports written (--write_sr)",
    CounterName.REPORTS_FAILED: "objects from whose header no structured report can be built",
    CounterName.FAILED: "objects that failed, which make the run incomplete",
    CounterName.ALREADY_INDEXED: "placed objects of a stream that the index already had rows of",
    CounterName.DEAD_LETTERS: "messages that became dead letters: no object can be ingested from them",
}
"""Description of each counter."""


class DistributionName(StrEnum):
    """Distributions; each name ends in its unit."""

    FETCH_MS = "fetch_ms"
    DECODE_MS = "decode_ms"
    INFERENCE_MS = "inference_ms"
    BATCH_IMAGES = "batch_images"
    PLACE_MS = "place_ms"
    INDEX_MS = "index_ms"
    OBJECT_BYTES = "object_bytes"
    LATENCY_S = "latency_s"

    @property
    def step(self) -> str:
        """The name without its unit."""
        return self.rpartition("_")[0]

    @property
    def unit(self) -> str:
        """The unit of the values."""
        return self.rpartition("_")[2]


class DistributionDescription(NamedTuple):
    """Description of a distribution.

    Attributes:
        each: What has one value: object, call or file.
        text: What is measured.
    """

    each: str
    text: str


DISTRIBUTION_DESCRIPTIONS: Final[dict[DistributionName, DistributionDescription]] = {
    DistributionName.FETCH_MS: DistributionDescription("object", "time to read and hash an object"),
    DistributionName.DECODE_MS: DistributionDescription(
        "object",
        "time to parse and decode an object, as seen by the parent process",
    ),
    DistributionName.INFERENCE_MS: DistributionDescription(
        "call", "time of a model call, with a batch of images"
    ),
    DistributionName.BATCH_IMAGES: DistributionDescription("call", "images in a model call"),
    DistributionName.PLACE_MS: DistributionDescription(
        "object", "time to place an object in its sink"
    ),
    DistributionName.INDEX_MS: DistributionDescription("file", "time to write an index file"),
    DistributionName.OBJECT_BYTES: DistributionDescription("object", "size of an examined object"),
    DistributionName.LATENCY_S: DistributionDescription(
        "object",
        "end-to-end latency of a stream: from the event time of an object to its index row",
    ),
}
