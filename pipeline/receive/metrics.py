"""Export the metrics of the receiver to Prometheus and by OTLP, as its options say."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from pipeline.observability.metric_table import (
    ASSOCIATIONS,
    INBOX_FOLDER,
    REFUSED,
    REJECTED,
    STORED,
    STORED_BYTES,
)
from pipeline.observability.registry import MetricRegistry
from pipeline.observability.run_metrics import set_storage
from pipeline.receive.options import ReceiveOptions
from pipeline.receive.refusals import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_MISMATCH,
    SOP_CLASS_NOT_SUPPORTED,
)
from pipeline.receive.store import Counts, Rejection
from transforms.config.monitoring_options import MetricsOptions

if TYPE_CHECKING:
    from pipeline.receive.dimse import StoreScp

NAMES: Final = {
    OUT_OF_RESOURCES: "out_of_resources",
    SOP_CLASS_MISMATCH: "sop_class_mismatch",
    CANNOT_UNDERSTAND: "cannot_understand",
    PROCESSING_FAILURE: "processing_failure",
    SOP_CLASS_NOT_SUPPORTED: "sop_class_not_supported",
}
"""Value of the label `refusal` by status."""
PACKAGE: Final = "dicom-imaging-router"


def export_metrics(
    options: ReceiveOptions, counts: Counts, scp: StoreScp, exports: ExitStack
) -> list[str]:
    """Export metrics until a stack is closed.

    Args:
        options: checked options.
        counts: what the receiver counts.
        scp: its Storage SCP.
        exports: stack that ends the export.

    Returns:
        Where it listens, for the terminal.

    Raises:
        OSError: the address or port of the endpoint cannot be used.
    """
    monitoring = options.monitoring
    if monitoring == MetricsOptions():
        return []
    registry = MetricRegistry()
    set_receiver(registry, Counts(), 0)  # alerts need the zeros
    registry.on_refresh(lambda: set_receiver(registry, counts, scp.associations))
    registry.on_refresh(lambda: set_storage(registry, {INBOX_FOLDER: str(options.folder)}))
    if monitoring.otlp:
        from pipeline.observability.otlp import OtlpExport

        exports.callback(OtlpExport(registry, _version()).close)
    if monitoring.metrics_port is None:
        return []
    from pipeline.observability.prometheus import serve_metrics

    address = monitoring.metrics_address
    port = exports.enter_context(serve_metrics(registry, address, monitoring.metrics_port))
    return [f"metrics on {address}:{port}"]


def set_receiver(registry: MetricRegistry, counts: Counts, associations: int) -> None:
    """Set the metrics of the receiver."""
    registry.set(STORED, counts.stored)
    registry.set(STORED_BYTES, counts.bytes)
    registry.set(ASSOCIATIONS, associations)
    refused = {(name,): counts.refusals[status] for status, name in NAMES.items()}
    registry.set_all(REFUSED, refused)
    registry.set_all(REJECTED, {(str(one),): counts.rejections[one] for one in Rejection})


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
