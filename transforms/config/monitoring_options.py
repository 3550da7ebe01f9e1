"""Declare the options for metrics and lineage; imports nothing heavy."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transforms.core.option import Group, option, range_problems
from transforms.storage.extras import how_to_install, is_installed

PROMETHEUS_MODULE: Final = "prometheus_client"
OTLP_MODULE: Final = "opentelemetry.exporter.otlp.proto.http"
LINEAGE_MODULE: Final = "openlineage.client"
EXTRA: Final = "observability"
PROTOCOL_VARIABLES: Final = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
)
PROTOCOL: Final = "http/protobuf"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class MetricsOptions:
    """Where the metrics of a process go; nowhere by default.

    Attributes:
        metrics_port: TCP port of the endpoint for Prometheus; 0 for a free one, None for no endpoint.
        metrics_address: IP address of the endpoint.
        otlp: whether to send metrics and spans by OTLP.
    """

    metrics_port: int | None = option(
        None,
        group=Group.MONITORING,
        at_least=0,
        at_most=65535,
        help="serve metrics for Prometheus on this TCP port (/metrics); 0 chooses a free one",
        default_text="no endpoint",
    )
    metrics_address: str = option(
        LOOPBACK,
        group=Group.MONITORING,
        metavar="ADDRESS",
        help="IP address of --metrics_port; everybody who reaches it can read the metrics, which have "
        "no patient data",
    )
    otlp: bool = option(
        False,
        group=Group.MONITORING,
        help="send metrics and the spans of a run by OTLP over HTTP, as the variables "
        "OTEL_EXPORTER_OTLP_* of the environment say",
    )

    def problems(self) -> list[str]:
        """Return a message for each option that cannot be used."""
        problems = range_problems(self)
        try:
            ipaddress.ip_address(self.metrics_address)
        except ValueError:
            problems.append(f"--metrics_address {self.metrics_address}: write an IP address")
        if self.metrics_port is None and self.metrics_address != LOOPBACK:
            problems.append("--metrics_address needs --metrics_port")
        if self.metrics_port is not None and not is_installed(PROMETHEUS_MODULE):
            problems.append(f"--metrics_port: {how_to_install(EXTRA)}")
        if self.otlp:
            problems += _otlp_problems()
        return problems


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions(MetricsOptions):
    """Where the metrics and lineage of a run go; nowhere by default.

    Attributes:
        metrics_file: text file for the textfile collector of node_exporter; None for none.
        lineage: whether to emit OpenLineage events.
    """

    metrics_file: Path | None = option(
        None,
        group=Group.MONITORING,
        metavar="FILE.prom",
        help="write metrics to this file for the textfile collector of Prometheus's node_exporter when "
        "the run ends, and of a stream at every --log_interval; it is replaced at once",
    )
    lineage: bool = option(
        False,
        group=Group.MONITORING,
        help="emit OpenLineage events when the run starts and ends, as the client's own configuration "
        "(OPENLINEAGE_URL, openlineage.yml) says; they name the lake and the folder or bucket of the "
        "inputs, and no file",
    )

    def problems(self) -> list[str]:
        """Return a message for each option that cannot be used."""
        problems = super().problems()
        if self.metrics_file is not None:
            problems += _file_problems(self.metrics_file)
        if self.lineage and not is_installed(LINEAGE_MODULE):
            problems.append(f"--lineage: {how_to_install(EXTRA)}")
        return problems


def _otlp_problems() -> list[str]:
    if not is_installed(OTLP_MODULE):
        return [f"--otlp: {how_to_install(EXTRA)}"]
    return [
        f"--otlp: {variable} is {value!r}, and only {PROTOCOL} is supported; change or unset it"
        for variable in PROTOCOL_VARIABLES
        if (value := os.environ.get(variable, PROTOCOL)) != PROTOCOL
    ]


def _file_problems(path: Path) -> list[str]:
    if not is_installed(PROMETHEUS_MODULE):
        return [f"--metrics_file: {how_to_install(EXTRA)}"]
    if path.suffix != ".prom":
        return [f"--metrics_file {path}: node_exporter reads names that end in .prom only"]
    if not path.parent.is_dir() or path.is_dir():
        return [f"--metrics_file {path}: give a file in a folder that exists"]
    return []
