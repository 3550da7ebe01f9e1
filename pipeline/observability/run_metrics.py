"""Set the exported metrics of a run from its summary, its rows and what its engine has counted."""

from __future__ import annotations

import calendar
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Final

from pipeline.observability.metric_table import (
    CONFLICTS,
    DESTINATION_ROWS,
    ENGINE_COUNTERS,
    FAILURES,
    HEADERS,
    INFERENCE_IMAGES,
    LAKE_FOLDER,
    ROWS,
    RUN_BYTES,
    RUN_COMPLETE,
    RUN_CONFLICTS,
    RUN_DESTINATIONS,
    RUN_DISCOVERED,
    RUN_DURATION,
    RUN_END,
    RUN_FAILED,
    RUN_HEADERS,
    RUN_OBJECTS,
    RUN_REASONS,
    RUN_SKIPPED,
    RUN_START,
    RUN_SUCCESS,
    RUN_UNMET,
    SOURCE_BYTES,
    STEP_EXECUTIONS,
    STEP_MAX,
    STEP_SECONDS,
    STORAGE_FREE,
    STORAGE_SIZE,
    TEMPORARY_FOLDER,
    Metric,
)
from pipeline.observability.registry import MetricRegistry
from transforms.core.metric_names import DistributionName
from transforms.core.reasons import FAILURE_REASONS, terms_of
from transforms.lake.run_counts import RunCounts
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local

REASON_PREFIX: Final = "reason_"
_SECONDS: Final = {"ms": 1000.0, "s": 1.0}
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def set_run(registry: MetricRegistry, summary: Mapping[str, Any], kind: str) -> None:
    """Set the metrics of the last run from its summary."""
    counts = summary["counts"]

    def of_kind(metric: Metric, values: Mapping[tuple[str, ...], float]) -> None:
        registry.set_all(metric, {(kind, *labels): value for labels, value in values.items()})

    for metric, value in (
        (RUN_START, _seconds(summary["started_at"])),
        (RUN_END, _seconds(summary["finished_at"])),
        (RUN_DURATION, summary["duration_s"]),
        (RUN_COMPLETE, int(summary["complete"])),
        (RUN_UNMET, sum(not one["met"] for one in summary["expectations"])),
        (RUN_DISCOVERED, counts["discovered"]),
        (RUN_FAILED, counts["failed"]),
        (RUN_CONFLICTS, counts["conflicts"]),
        (RUN_BYTES, summary["size_bytes"]),
    ):
        of_kind(metric, {(): value})
    if summary["complete"]:
        of_kind(RUN_SUCCESS, {(): _seconds(summary["finished_at"])})
    of_kind(RUN_OBJECTS, _by_one(terms_of(counts)))
    of_kind(RUN_DESTINATIONS, _by_one(summary["destinations"]))
    of_kind(RUN_HEADERS, _by_one(summary["headers"]))
    of_kind(RUN_SKIPPED, _by_one(summary["skipped"]))
    reasons = summary["reasons"]
    of_kind(
        RUN_REASONS,
        {(one["status"], one["stage"], one["reason"]): one["objects"] for one in reasons},
    )


def set_failed_run(registry: MetricRegistry, kind: str, started_at: float) -> None:
    """Set the metrics of a run that has failed without a summary."""
    now = time.time()
    registry.set(RUN_START, started_at, kind=kind)
    registry.set(RUN_END, now, kind=kind)
    registry.set(RUN_DURATION, max(0.0, now - started_at), kind=kind)
    registry.set(RUN_COMPLETE, 0, kind=kind)


def set_last_success(registry: MetricRegistry, kind: str, finished_at: str) -> None:
    """Set when the last complete run ended, as its summary says."""
    registry.set(RUN_SUCCESS, _seconds(finished_at), kind=kind)


def set_rows(registry: MetricRegistry, counts: RunCounts) -> None:
    """Set the metrics of the rows of a run in the index."""
    registry.set_all(ROWS, counts.reasons)
    registry.set_all(DESTINATION_ROWS, _by_one(counts.destinations))
    registry.set_all(HEADERS, _by_one(counts.headers))
    registry.set(SOURCE_BYTES, counts.size_bytes)
    registry.set(CONFLICTS, counts.conflicts)


def set_counters(registry: MetricRegistry, counters: Mapping[str, int]) -> None:
    """Set the counters of an engine or process, by the names that they have in Beam."""
    for name, metric in ENGINE_COUNTERS.items():
        if name in counters:
            registry.set(metric, counters[name])
    failures = {(str(one),): counters.get(f"{REASON_PREFIX}{one}", 0) for one in FAILURE_REASONS}
    registry.set_all(FAILURES, {key: number for key, number in failures.items() if number})


def set_engine(registry: MetricRegistry, metrics: Mapping[str, Any] | None) -> None:
    """Set the metrics that an engine returned; see `pipeline.metrics_report.metrics_of`."""
    if metrics is None:
        return
    set_counters(registry, metrics["counters"])
    for text, values in metrics["distributions"].items():
        name = DistributionName(text)
        if name is DistributionName.BATCH_IMAGES:
            registry.set(INFERENCE_IMAGES, values["sum"])
        if (divisor := _SECONDS.get(name.unit)) is not None:
            registry.set(STEP_SECONDS, values["sum"] / divisor, step=name.step)
            registry.set(STEP_EXECUTIONS, values["count"], step=name.step)
            registry.set(STEP_MAX, values["max"] / divisor, step=name.step)


def set_storage(registry: MetricRegistry, folders: Mapping[str, str]) -> None:
    """Set the free space of local folders by their names; those that cannot be read have none."""
    free: dict[tuple[str, ...], float] = {}
    size: dict[tuple[str, ...], float] = {}
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        free[name,], size[name,] = usage.free, usage.total
    registry.set_all(STORAGE_FREE, free)
    registry.set_all(STORAGE_SIZE, size)


def folders_of(lake: str) -> dict[str, str]:
    """Return the local folders that a run fills, by their names."""
    folders = {TEMPORARY_FOLDER: tempfile.gettempdir()}
    return {LAKE_FOLDER: str(uri_to_path(lake)), **folders} if is_local(lake) else folders


def _by_one(values: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): number for name, number in values.items()}


def _seconds(text: str) -> float:
    """Return a time of a summary in seconds since 1970."""
    return float(calendar.timegm(time.strptime(text, _TIME)))
