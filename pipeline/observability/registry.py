"""The present values of the exported metrics, which all outputs read."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from pipeline.observability.metric_table import (
    DESTINATION,
    LABEL_VALUES,
    LAKE_LABEL,
    UNKNOWN,
    Kind,
    Metric,
)
from transforms.core.labels import NAME_PATTERN, OTHER_SINKS

REFRESH_S: Final = 1.0
"""Age of the last refresh up to which an export by OTLP, which reads metric by metric, needs no other."""
_LAKE_ID: Final = re.compile(r"[0-9a-f]{32}")


class Sample(NamedTuple):
    """A value of a metric, with its labels by name."""

    labels: dict[str, str]
    value: float


class MetricRegistry:
    """Values by metric and labels. Thread-safe, and reentrant in signal handlers.

    A label value that is not in its closed list becomes `UNKNOWN`, so that nothing that came with an
    object, or that somebody wrote into an index, can become one.
    """

    def __init__(self, labels: Iterable[str] = ()) -> None:
        """Start without values.

        Args:
            labels: labels of the model, which with the other sinks are the destinations.
        """
        destinations = {*filter(NAME_PATTERN.fullmatch, labels), *OTHER_SINKS}
        lists = {**LABEL_VALUES, DESTINATION: tuple(destinations)}
        self._allowed = {name: frozenset(values) for name, values in lists.items()}
        self._values: dict[Metric, dict[tuple[str, ...], float]] = {}
        self._refreshers: list[Callable[[], None]] = []
        self._refreshed_at = float("-inf")
        self._lake: str | None = None
        self._lock = threading.RLock()

    def set_lake(self, lake_id: str) -> None:
        """Set the label `lake` of all metrics."""
        self._lake = lake_id if _LAKE_ID.fullmatch(lake_id) else UNKNOWN

    def on_refresh(self, refresh: Callable[[], None]) -> None:
        """Call a function before values are read, to set those that change meanwhile."""
        self._refreshers.append(refresh)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set one value of a metric; a counter never decreases."""
        self._update(metric, {tuple(labels[name] for name in metric.labels): value}, keep=True)

    def set_all(self, metric: Metric, values: Mapping[Any, float]) -> None:
        """Set the values of a metric by tuples of labels; those of a gauge replace all earlier."""
        self._update(metric, values, keep=metric.kind is Kind.COUNTER)

    def _update(self, metric: Metric, values: Mapping[Any, float], *, keep: bool) -> None:
        found: dict[tuple[str, ...], float] = {}
        for labels, value in values.items():
            key = tuple(map(self._closed, metric.labels, labels))
            found[key] = found.get(key, 0) + value
        with self._lock:
            before = self._values.get(metric, {}) if keep else {}
            if metric.kind is Kind.COUNTER:
                found = {key: max(value, before.get(key, 0)) for key, value in found.items()}
            self._values[metric] = before | found

    def refresh(self, *, max_age_s: float = 0.0) -> None:
        """Set the values that change meanwhile, unless they were set at most `max_age_s` ago."""
        now = time.monotonic()
        if now - self._refreshed_at >= max_age_s:
            self._refreshed_at = now
            for refresh in self._refreshers:
                refresh()

    def samples(self, metric: Metric) -> list[Sample]:
        """Return the values of a metric, in order of their labels."""
        common = {} if self._lake is None else {LAKE_LABEL: self._lake}
        with self._lock:
            values = sorted(self._values.get(metric, {}).items())
        return [
            Sample({**common, **dict(zip(metric.labels, key, strict=True))}, value)
            for key, value in values
        ]

    def _closed(self, label: str, value: str) -> str:
        return value if value in self._allowed[label] else UNKNOWN
