"""Send the exported metrics, and the spans of a run, by OTLP over HTTP with protobuf.

The SDK reads the standard variables of the environment (https://opentelemetry.io/docs/specs/otel/
configuration/sdk-environment-variables): endpoint, headers, certificates, timeouts, interval, resource.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from pipeline.observability.metric_table import METRICS, Kind, Metric
from pipeline.observability.registry import REFRESH_S, MetricRegistry

LOG: Final = logging.getLogger("dicom_router")
SERVICE: Final = "dicom-router"
CLOSE_TIMEOUT_S: Final = 5.0
"""Maximum time that the end of a run waits for the last export."""
NO_EXPORTER: Final = "none"
"""Value of OTEL_METRICS_EXPORTER or OTEL_TRACES_EXPORTER that turns a signal off."""


class _Delivery:
    """Whether the endpoint accepts what is sent; logged when it ceases to, and when it does again."""

    def __init__(self) -> None:
        self._failing = False

    def record(self, *, accepted: bool) -> None:
        if accepted and self._failing:
            LOG.warning("OTLP: the endpoint accepts metrics and spans again")
        elif not accepted and not self._failing:
            LOG.warning(
                "OTLP: the endpoint does not accept metrics and spans; nothing else depends on it (check "
                "OTEL_EXPORTER_OTLP_ENDPOINT)"
            )
        self._failing = not accepted


class _MetricExporter(OTLPMetricExporter):
    def __init__(self, delivery: _Delivery) -> None:
        super().__init__()
        self._delivery = delivery

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._delivery.record(accepted=result is MetricExportResult.SUCCESS)
        return result


class _SpanExporter(OTLPSpanExporter):
    def __init__(self, delivery: _Delivery) -> None:
        super().__init__()
        self._delivery = delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._delivery.record(accepted=result is SpanExportResult.SUCCESS)
        return result


class OtlpExport:
    """Export metrics periodically and spans as they end, in threads that nothing waits for."""

    def __init__(self, registry: MetricRegistry, version: str) -> None:
        """Start to export.

        Args:
            registry: where the metrics are.
            version: version of this package.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # it logs each attempt
        self._registry = registry
        self._root: Span | None = None
        self._meters: MeterProvider | None = None
        self._tracers: TracerProvider | None = None
        delivery, resource = _Delivery(), _resource(version)
        if os.environ.get("OTEL_METRICS_EXPORTER") != NO_EXPORTER:
            reader = PeriodicExportingMetricReader(_MetricExporter(delivery))
            self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
            self._create_instruments(self._meters, version)
        if os.environ.get("OTEL_TRACES_EXPORTER") != NO_EXPORTER:
            self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._tracers.add_span_processor(BatchSpanProcessor(_SpanExporter(delivery)))
            self._tracer = self._tracers.get_tracer(SERVICE, version)

    @contextlib.contextmanager
    def span(self, name: str, **attributes: str | int | bool) -> Iterator[Span | None]:
        """Record the block as a span; the first one is the parent of those in it.

        The span of a block that raises has the type of the exception, never its message.
        """
        if self._tracers is None:
            yield None
            return
        parent = None if self._root is None else set_span_in_context(self._root)
        span = self._tracer.start_span(name, parent, attributes=attributes)
        is_root, self._root = self._root is None, self._root or span
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()
            if is_root:
                self._root = None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Export what is left, for a limited time."""
        providers = [one for one in (self._meters, self._tracers) if one is not None]
        threads = [
            threading.Thread(target=_shut_down, args=[one], daemon=True) for one in providers
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            LOG.warning(
                "OTLP: the last metrics or spans were not delivered within %.0f s", timeout_s
            )

    def _create_instruments(self, meters: MeterProvider, version: str) -> None:
        meter = meters.get_meter(SERVICE, version)
        for metric in METRICS:
            create = (
                meter.create_observable_counter
                if metric.kind is Kind.COUNTER
                else meter.create_observable_gauge
            )
            create(metric.otlp_name, [self._observer(metric)], metric.otlp_unit, metric.help)

    def _observer(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            self._registry.refresh(max_age_s=REFRESH_S)
            return [Observation(one.value, one.labels) for one in self._registry.samples(metric)]

        return observe


def _shut_down(provider: MeterProvider | TracerProvider) -> None:
    with contextlib.suppress(Exception):  # it raises if its time is over
        provider.shutdown()


def _resource(version: str) -> Resource:
    """Return the resource of the environment; its `service.name` is `SERVICE` unless it names another."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    own = {} if named else {"service.name": SERVICE}
    return Resource.create({**own, "service.version": version})
