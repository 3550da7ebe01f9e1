"""HTTP servers that receive OTLP and OpenLineage, as collectors do."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


class Collector:
    """What has been posted to a server, by path.

    Attributes:
        url: of the server.
        posted: bodies by path.
        status: of the answers.
    """

    def __init__(self) -> None:
        self.posted: dict[str, list[bytes]] = {}
        self.status = 200
        self.url = ""

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """The last value of each metric by its attributes."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for body in self.posted.get("/v1/metrics", []):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        data = metric.sum if metric.HasField("sum") else metric.gauge
                        assert not metric.HasField("sum") or metric.sum.is_monotonic
                        for point in data.data_points:
                            key = tuple(sorted(attributes(point.attributes).items()))
                            value = point.as_int or point.as_double
                            found.setdefault(metric.name, {})[key] = value
        return found

    def resource(self) -> dict[str, str]:
        """The attributes of the resource."""
        body = self.posted["/v1/metrics"][-1]
        request = ExportMetricsServiceRequest.FromString(body)
        return attributes(request.resource_metrics[0].resource.attributes)

    def spans(self) -> list[Any]:
        """All spans, in order of their end."""
        return [
            span
            for body in self.posted.get("/v1/traces", [])
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def events(self) -> list[dict[str, Any]]:
        """All OpenLineage events."""
        return [json.loads(body) for body in self.posted.get("/api/v1/lineage", [])]


def attributes(pairs: list[KeyValue]) -> dict[str, str]:
    return {one.key: one.value.string_value for one in pairs}


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Serve on a free port of loopback while the block runs."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posted.setdefault(self.path, []).append(body)
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
