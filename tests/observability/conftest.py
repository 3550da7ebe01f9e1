"""A lake that was routed once, with everything exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.observability.lineage import Lineage
from pipeline.observability.otlp import OtlpExport
from tests.conftest import Lake, route_into, write
from tests.observability.collectors import Collector, collector
from tests.synthetic import dicom_bytes, image

SMALL = (96, 64)
NAME = 'DOE^JANE"\n{x="1"} 7'
"""Patient name of the source objects, which also tries to end a line of Prometheus's text format."""
FILE_NAME = "DOE_JANE"

Values = dict[str, dict[tuple[tuple[str, str], ...], float]]


def values_of(text: str) -> Values:
    """Values of metrics in Prometheus's text format, by sorted labels."""
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Wait longer for deliveries than a run does: a busy machine must not lose them."""
    with pytest.MonkeyPatch.context() as patch:
        for close in (OtlpExport.close, Lineage.close):
            patch.setattr(close, "__defaults__", (60.0,))
        yield


@dataclass
class Observed:
    """What a run has exported.

    Attributes:
        folder: with `source` and `lake`.
        summary: of the run.
        text: of the metrics file.
        file: the metrics file.
        collector: what was sent by OTLP and HTTP.
    """

    folder: Path
    summary: dict[str, Any]
    text: str
    file: Path
    collector: Collector

    @property
    def values(self) -> Values:
        return values_of(self.text)

    @property
    def lake_id(self) -> str:
        return str(json.loads((self.folder / "lake" / "lake.json").read_text())["lake_id"])


def source_of(folder: Path) -> Path:
    """Write two images, one of them twice, and a file that is none."""
    first = dicom_bytes(image(1, SMALL), name="1", PatientName=NAME)
    write(folder, f"{FILE_NAME}.dcm", first)
    write(folder, "again.dcm", first)
    write(folder, "2.dcm", dicom_bytes(image(2, SMALL), name="2", PatientName=NAME))
    write(folder, f"{FILE_NAME}.txt", b"no DICOM")
    return folder


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    source = source_of(folder / "source")
    file = folder / "dicom_router.prom"
    with collector() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        patch.setenv("OPENLINEAGE_URL", found.url)
        for name in ("OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__URL",
                     "OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__TYPE"):  # fmt: skip
            patch.setenv(name, "")  # the client sets them, and leaves them
            patch.delenv(name)
        summary = route_into(
            Lake(folder / "lake"),
            "--metrics_file", str(file), "--metrics_port=0", "--otlp", "--lineage",
            inputs=(str(source / "*"),),
        )  # fmt: skip
        yield Observed(folder, summary, file.read_text(), file, found)
