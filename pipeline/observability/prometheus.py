"""Show the exported metrics to Prometheus: as a text file, or on an HTTP endpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pipeline.observability.metric_table import LAKE_LABEL, METRICS, Kind
from pipeline.observability.registry import MetricRegistry
from transforms.storage.temporary import temporary_name

FILE_MODE: Final = 0o644
"""node_exporter runs as another user, and metrics have no patient data."""


class RegistryCollector(Collector):
    """The metrics of a registry, as prometheus-client wants them."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Family]:
        """Yield the metrics that have values."""
        self._registry.refresh()
        for metric in METRICS:
            if not (samples := self._registry.samples(metric)):
                continue
            labels = [name for name in (LAKE_LABEL, *metric.labels) if name in samples[0].labels]
            kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = kind(metric.family, metric.help, labels=labels)
            for sample in samples:
                family.add_metric([sample.labels[name] for name in labels], sample.value)
            yield family


def write_text_file(registry: MetricRegistry, path: Path) -> None:
    """Replace a file for the textfile collector of node_exporter by the present values, at once.

    Raises:
        OSError: the file cannot be written; the earlier one is kept.
    """
    collected = CollectorRegistry(auto_describe=False)
    collected.register(RegistryCollector(registry))
    partial = path.with_name(temporary_name())  # node_exporter reads names that end in .prom
    try:
        with partial.open("xb") as file:
            file.write(generate_latest(collected))
            os.fchmod(file.fileno(), FILE_MODE)
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def serve_metrics(registry: MetricRegistry, address: str, port: int) -> Iterator[int]:
    """Serve metrics, and those of the process, over HTTP while the block runs; return the port.

    Raises:
        OSError: the address or port cannot be used.
    """
    collected = CollectorRegistry(auto_describe=False)
    collected.register(RegistryCollector(registry))
    ProcessCollector(registry=collected)
    server, thread = start_http_server(port, address, collected)
    assert isinstance(server, WSGIServer)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
