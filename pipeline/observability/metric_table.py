"""Every exported metric: name, kind, unit, labels and the closed lists of their values.

Names follow Prometheus's conventions (https://prometheus.io/docs/practices/naming): base units, and
`_total` for counters. The OTLP names become the same ones in a collector that exports to Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from transforms.core.metric_names import COUNTER_DESCRIPTIONS, CounterName, DistributionName
from transforms.core.reasons import FORGOTTEN, TERMS, Reason, Stage, Status
from transforms.storage.selection import Skip

PREFIX: Final = "dicom_router"
UNKNOWN: Final = "unknown"
"""Value of a label in place of one that is not in its list."""
LAKE_LABEL: Final = "lake"
DESTINATION: Final = "destination"
STEPS: Final = tuple(name.step for name in DistributionName if name.unit in ("ms", "s"))
LAKE_FOLDER: Final = "lake"
TEMPORARY_FOLDER: Final = "temporary"
INBOX_FOLDER: Final = "inbox"
AGREEMENT: Final = ("agree", "disagree")
KINDS: Final = ("route", "reroute")
REFUSALS: Final = (
    "out_of_resources", "sop_class_mismatch", "cannot_understand", "processing_failure",
    "sop_class_not_supported",
)  # fmt: skip
"""Why the receiver refuses an object: the names of its statuses in `pipeline.receive.refusals`."""
REJECTIONS: Final = ("address", "connections", "handshake", "association", "request")
"""What the receiver rejects before an object is sent."""

LABEL_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "status": tuple(map(str, Status)),
    "stage": tuple(map(str, Stage)),
    "reason": tuple(map(str, Reason)),
    "term": (*TERMS, FORGOTTEN),
    "step": STEPS,
    "agreement": AGREEMENT,
    "skip": tuple(map(str, Skip)),
    "folder": (LAKE_FOLDER, TEMPORARY_FOLDER, INBOX_FOLDER),
    "kind": KINDS,
    "refusal": REFUSALS,
    "rejection": REJECTIONS,
}
"""All values of each label, but those of `destination`: the sinks of the model's labels."""
LABEL_TEXTS: Final[dict[str, str]] = {
    LAKE_LABEL: "`lake_id` of `lake.json`; on every metric but those of the receiver",
    DESTINATION: "a label of the bundle, or review, not_xray, quarantine",
    "kind": "kind of the run",
    "status": "status of a row",
    "stage": "stage that decided",
    "reason": "reason of a row or failure",
    "term": "term of the completeness equation",
    "step": "step of the graph; latency: from the event time of an object to its index row",
    "agreement": "header and decision of routed images",
    "skip": "why a name that the inputs match is no object",
    "folder": "where the storage is",
    "refusal": "status of the answer (PS3.4 table B.2-1)",
    "rejection": "address: not in --hosts; connections: too many; handshake: of TLS; association; "
    "request: of STOW-RS",
}
"""Description of each label."""


class Kind(StrEnum):
    """Kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"


class Unit(StrEnum):
    """Units, as suffixes of Prometheus's names."""

    COUNT = ""
    SECONDS = "seconds"
    BYTES = "bytes"


OTLP_UNITS: Final = {Unit.COUNT: "1", Unit.SECONDS: "s", Unit.BYTES: "By"}


@dataclass(frozen=True)
class Metric:
    """One exported metric.

    Attributes:
        name: without prefix, unit and `_total`.
        kind: counter or gauge.
        help: what it is.
        labels: names of its labels, without `lake`.
        unit: its unit.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: Unit = Unit.COUNT

    @property
    def family(self) -> str:
        """Name in Prometheus, without `_total`."""
        return "_".join(filter(None, (PREFIX, self.name, self.unit.value)))

    @property
    def prometheus_name(self) -> str:
        """Name in Prometheus."""
        return f"{self.family}_total" if self.kind is Kind.COUNTER else self.family

    @property
    def otlp_name(self) -> str:
        """Name in OTLP, from which a collector makes that of Prometheus."""
        return f"{PREFIX}.{self.name}"

    @property
    def otlp_unit(self) -> str:
        """Unit in OTLP (UCUM); that of a number is an annotation, which a collector drops."""
        return "{count}" if self.unit is Unit.COUNT else OTLP_UNITS[self.unit]


def _counter(name: str, text: str, *labels: str, unit: Unit = Unit.COUNT) -> Metric:
    return Metric(name, Kind.COUNTER, text, labels, unit)


def _gauge(name: str, text: str, *labels: str, unit: Unit = Unit.COUNT) -> Metric:
    return Metric(name, Kind.GAUGE, text, labels, unit)


def _run(name: str, text: str, *labels: str, unit: Unit = Unit.COUNT) -> Metric:
    return _gauge(f"run_{name}", f"last run that ended: {text}", "kind", *labels, unit=unit)


def _of_engine(name: CounterName) -> Metric:
    text = f"{COUNTER_DESCRIPTIONS[name]}; an engine counts again what it runs again"
    if name is CounterName.BYTES_READ:
        return _counter("read", text, unit=Unit.BYTES)
    return _counter(str(name), text)


ENGINE_COUNTERS: Final = {name: _of_engine(name) for name in CounterName}
FAILURES: Final = _counter("failures", "objects that failed, as `failed`, by reason", "reason")

ROWS: Final = _counter(
    "rows", "rows of the run in the index, counted once", "status", "stage", "reason"
)
DESTINATION_ROWS: Final = _counter(
    "destination_rows", "rows of the run in the index, without duplicates", DESTINATION
)
SOURCE_BYTES: Final = _counter("source", "size of the source objects with a row", unit=Unit.BYTES)
CONFLICTS: Final = _counter(
    "conflicts", "rows whose SOP Instance UID has another content in the lake"
)
HEADERS: Final = _counter("headers", "routed images whose header names a label", "agreement")
STEP_SECONDS: Final = _counter(
    "step_duration", "time of steps, of objects processed concurrently", "step", unit=Unit.SECONDS
)
STEP_EXECUTIONS: Final = _counter("step_executions", "executions of steps", "step")
STEP_MAX: Final = _gauge("step_duration_max", "longest execution", "step", unit=Unit.SECONDS)
INFERENCE_IMAGES: Final = _counter("inference_images", "images in model calls")

STARTED: Final = _gauge("start_timestamp", "when the run started", unit=Unit.SECONDS)
IN_FLIGHT: Final = _gauge("in_flight_objects", "objects of a stream that have no row yet")
RETRIED: Final = _gauge("retried_objects", "objects in flight that were emitted more than once")
WAITING: Final = _gauge("waiting_objects", "objects that the last poll found and did not emit yet")
OLDEST: Final = _gauge(
    "oldest_in_flight", "age of the object that has been in flight for the longest time",
    unit=Unit.SECONDS,
)  # fmt: skip
LAST_ROW: Final = _gauge(
    "last_row_timestamp", "when a row of the stream last appeared, or its start", unit=Unit.SECONDS
)
LAST_POLL: Final = _gauge(
    "last_poll_timestamp", "when the input that was polled least recently reported",
    unit=Unit.SECONDS,
)  # fmt: skip
LETTERS: Final = _gauge("dead_letter_files", "dead letters in the lake")
UNMET: Final = _gauge(
    "unmet_expectations",
    "expectations of the policy that the last hour of the stream does not meet",
)
STORAGE_FREE: Final = _gauge(
    "storage_free", "free space of a local file system", "folder", unit=Unit.BYTES
)
STORAGE_SIZE: Final = _gauge(
    "storage_size", "size of a local file system", "folder", unit=Unit.BYTES
)

RUN_START: Final = _run("start_timestamp", "when it started", unit=Unit.SECONDS)
RUN_END: Final = _run("end_timestamp", "when it ended", unit=Unit.SECONDS)
RUN_SUCCESS: Final = _run(
    "success_timestamp", "when the last complete one ended", unit=Unit.SECONDS
)
RUN_DURATION: Final = _run("duration", "how long it ran", unit=Unit.SECONDS)
RUN_COMPLETE: Final = _run("complete", "1 if every object is accounted for, else 0")
RUN_UNMET: Final = _run("unmet_expectations", "expectations of the policy that are not met")
RUN_DISCOVERED: Final = _run("discovered_objects", "objects that the source listed")
RUN_OBJECTS: Final = _run(
    "objects", "terms of the completeness equation, whose sum is discovered_objects", "term"
)
RUN_FAILED: Final = _run("failed_objects", "objects that failed")
RUN_DESTINATIONS: Final = _run("destination_objects", "rows without duplicates", DESTINATION)
RUN_REASONS: Final = _run("reason_objects", "rows", "status", "stage", "reason")
RUN_CONFLICTS: Final = _run(
    "conflicts", "rows whose SOP Instance UID has another content in the lake"
)
RUN_HEADERS: Final = _run("headers", "routed images whose header names a label", "agreement")
RUN_BYTES: Final = _run("source", "size of the source objects with a row", unit=Unit.BYTES)
RUN_SKIPPED: Final = _run("skipped_names", "names that are no objects", "skip")

STORED: Final = _counter("receiver_stored_objects", "received objects, answered with success")
STORED_BYTES: Final = _counter("receiver_stored", "size of the received objects", unit=Unit.BYTES)
REFUSED: Final = _counter("receiver_refused_objects", "objects answered with a failure", "refusal")
REJECTED: Final = _counter(
    "receiver_rejected", "connections, associations and requests rejected", "rejection"
)
ASSOCIATIONS: Final = _gauge("receiver_associations", "associations that are open")

METRICS: Final = (
    *ENGINE_COUNTERS.values(), FAILURES,
    ROWS, DESTINATION_ROWS, SOURCE_BYTES, CONFLICTS, HEADERS,
    STEP_SECONDS, STEP_EXECUTIONS, STEP_MAX, INFERENCE_IMAGES,
    STARTED, IN_FLIGHT, RETRIED, WAITING, OLDEST, LAST_ROW, LAST_POLL, LETTERS, UNMET,
    STORAGE_FREE, STORAGE_SIZE,
    RUN_START, RUN_END, RUN_SUCCESS, RUN_DURATION, RUN_COMPLETE, RUN_UNMET, RUN_DISCOVERED,
    RUN_OBJECTS, RUN_FAILED, RUN_DESTINATIONS, RUN_REASONS, RUN_CONFLICTS, RUN_HEADERS, RUN_BYTES,
    RUN_SKIPPED,
    STORED, STORED_BYTES, REFUSED, REJECTED, ASSOCIATIONS,
)  # fmt: skip
"""Every exported metric, in the order of the documentation."""
