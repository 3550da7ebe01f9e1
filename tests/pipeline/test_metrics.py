"""Metrics of a run: in the summary, on the terminal and in the lake. A run completes without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.metrics.cells import DistributionData, DistributionResult
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metricbase import MetricName
from apache_beam.runners.portability.fn_api_runner.fn_runner import RunnerResult
from apache_beam.runners.runner import PipelineResult
from pydicom.uid import CTImageStorage

from pipeline import metrics_report
from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import Status
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.metrics import (
    NAMESPACE,
    RUN_INFERENCE,
    CounterName,
    DistributionName,
    WholeMilliseconds,
)

SMALL = (96, 64)

BATCH_DISTRIBUTIONS = [n for n in DistributionName if n != DistributionName.LATENCY_S]


@pytest.fixture
def sizes(source: Path) -> list[int]:
    """Write objects of every status to the source; return their sizes."""
    images = [dicom_bytes(image(n, SMALL), name=str(n)) for n in range(5)]
    for number, data in enumerate(images):
        write(source, f"{number}.dcm", data)
    write(source, "twin.dcm", images[0])
    write(source, "ct.dcm", dicom_bytes(image(9, SMALL), name="9", SOPClassUID=CTImageStorage))
    write(source, "broken.dcm", b"no DICOM")
    return [path.stat().st_size for path in source.iterdir()]


@pytest.mark.slow
def test_images_decoded_by_the_fallback_are_counted(route: Route, source: Path) -> None:
    write(source, "gray.dcm", dicom_bytes(image(1, SMALL), name="1"))
    gray = image(2, SMALL).astype("u1")
    write(source, "color.dcm", dicom_bytes(np.stack([gray] * 3, axis=2), name="2"))
    assert route()["metrics"]["counters"]["decoded_by_fallback"] == 1


def test_the_summary_has_the_metrics(route: Route, lake: Lake, sizes: list[int]) -> None:
    summary = route()
    counters, distributions = summary["metrics"]["counters"], summary["metrics"]["distributions"]
    terms = counts(summary)
    objects, images = len(sizes), 6

    assert terms.keys() >= {"not_xray", "quarantined", "duplicate"}
    assert {s: counters.get(f"status_{s}", 0) for s in Status} == {
        s: terms.get(s, 0) for s in Status
    }
    by_reason: dict[str, int] = {}
    for entry in summary["reasons"]:
        name = f"reason_{entry['reason']}"
        by_reason[name] = by_reason.get(name, 0) + entry["objects"]
    assert {n: v for n, v in counters.items() if n.startswith("reason_")} == by_reason
    assert counters["discovered"] == counters["examined"] == counters["placed"] == objects
    assert counters["bytes_read"] == distributions["object_bytes"]["sum"] == sum(sizes)

    assert list(distributions) == BATCH_DISTRIBUTIONS
    for name in ("fetch_ms", "decode_ms", "place_ms", "object_bytes"):
        assert distributions[name]["count"] == objects, name
    assert (distributions["object_bytes"]["min"], distributions["object_bytes"]["max"]) == (
        min(sizes),
        max(sizes),
    )
    assert distributions["batch_images"]["sum"] == images
    assert distributions["inference_ms"]["count"] == distributions["batch_images"]["count"]
    assert 0 < distributions["inference_ms"]["mean"] < 60_000
    assert distributions["decode_ms"]["sum"] > 0
    assert distributions["index_ms"]["count"] == len(list(lake.root.glob("index/**/*.parquet")))
    for distribution in distributions.values():
        assert set(distribution) == {"count", "mean", "min", "max", "sum"}
        assert distribution["min"] <= distribution["mean"] <= distribution["max"]
        mean = distribution["sum"] / distribution["count"]
        assert distribution["mean"] == pytest.approx(mean, abs=0.001)


@pytest.mark.slow
def test_metrics_are_stored_separately_from_summaries(
    route: Route, lake: Lake, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = route(), route()
    for summary in (first, again):
        kept = json.loads(
            (lake.root / "runs" / "metrics" / f"{summary['run_id']}.json").read_text()
        )
        assert kept == {"run_id": summary["run_id"], **summary["metrics"]}
        assert "metrics" not in json.loads(
            (lake.root / "runs" / f"{summary['run_id']}.json").read_text()
        )
    objects = len(sizes)
    assert again["metrics"] == {
        "counters": {"discovered": objects, "unchanged": objects},
        "distributions": {},
    }
    capsys.readouterr()
    assert main(["verify", str(lake.root), "--deep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 2


@pytest.mark.slow
def test_the_terminal_shows_distributions(
    lake: Lake, source: Path, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["route", "--input", str(source), "--lake", str(lake.root)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "  max " in line]
    assert [line.split()[0] for line in lines] == [name.step for name in BATCH_DISTRIBUTIONS]
    assert lines[0].startswith("  fetch      mean ")
    assert lines[0].endswith(f" ms  ({len(sizes)} objects)")


@pytest.mark.slow
def test_failures_are_counted_by_reason(
    route: Route, lake: Lake, source: Path, tmp_path: Path
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, SMALL)))
    manifest = write(
        tmp_path, "list.txt", f"{source}/a.dcm\n{source}/gone-1\n{source}/gone-2\n".encode()
    )
    summary = route("--source", "manifest", inputs=(str(manifest),), expect=1)
    counters = summary["metrics"]["counters"]
    assert (counters["failed"], counters["reason_disappeared"]) == (2, 2)
    assert (lake.root / "runs" / "metrics" / f"{summary['run_id']}.json").exists()


@pytest.mark.slow
def test_too_large_objects_are_fetched_but_not_decoded(route: Route, source: Path) -> None:
    write(source, "a.dcm", dicom_bytes(image(1)))
    metrics = route("--max_object_bytes", "1000")["metrics"]
    assert metrics["counters"]["reason_too_large"] == metrics["counters"]["status_quarantined"] == 1
    assert metrics["distributions"]["fetch_ms"]["count"] == 1
    assert "decode_ms" not in metrics["distributions"]


@pytest.mark.slow
def test_a_run_completes_without_metrics(
    route: Route, lake: Lake, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(result: RunnerResult) -> None:
        raise NotImplementedError

    monkeypatch.setattr(RunnerResult, "metrics", refuse)
    summary = route()
    assert summary["complete"]
    assert "metrics" not in summary
    assert not (lake.root / "runs" / "metrics").exists()
    assert main(["verify", str(lake.root)]) == 0


@pytest.mark.slow
def test_a_run_completes_if_metrics_cannot_be_written(
    route: Route, lake: Lake, sizes: list[int]
) -> None:
    write_marker(Layout(str(lake.root)))
    write(lake.root / "runs", "metrics", b"not a folder")
    summary = route()
    assert summary["complete"]
    assert summary["metrics"]["counters"]["discovered"] == len(sizes)


class EngineResult(PipelineResult):
    """A result as engines return it: by step, with committed or only attempted values."""

    def __init__(self) -> None:
        super().__init__("DONE")  # type: ignore[no-untyped-call]

    def metrics(self) -> EngineResult:
        return self

    def query(self, query_filter: object) -> dict[str, list[MetricResult]]:
        def of(
            step: str, name: str, committed: Any, attempted: Any, space: str = NAMESPACE
        ) -> MetricResult:
            return MetricResult(MetricKey(step, MetricName(space, name)), committed, attempted)

        def distribution(*values: int) -> DistributionResult:
            return DistributionResult(
                DistributionData(sum(values), len(values), min(values), max(values))
            )

        empty = DistributionResult(DistributionData(0, 0, 2**63 - 1, -(2**63)))
        latency = "inference_batch_latency_micro_secs"
        return {
            "counters": [
                of("a", CounterName.PLACED, 2, 9),
                of("b", CounterName.PLACED, None, 3),
                of("c", CounterName.FAILED, 0, 5),
                of("d", "num_inferences", 1, 1, RUN_INFERENCE),
            ],
            "distributions": [
                of("a", "place_ms", distribution(1, 3), distribution(1, 3, 50)),
                of("b", "place_ms", None, distribution(8)),
                of("c", "place_ms", empty, empty),
                of("d", latency, distribution(1500, 2500), None, RUN_INFERENCE),
                of("d", "model_byte_size", distribution(5), None, RUN_INFERENCE),
            ],
        }


def test_metrics_are_summed_over_steps_preferring_committed_values() -> None:
    assert metrics_report.metrics_of(EngineResult()) == {
        "counters": {"placed": 5},
        "distributions": {
            "inference_ms": {"count": 2, "mean": 2.0, "min": 1.5, "max": 2.5, "sum": 4.0},
            "place_ms": {"count": 3, "mean": 4.0, "min": 1, "max": 8, "sum": 12},
        },
    }


def test_fractions_of_milliseconds_are_carried_over() -> None:
    milliseconds = WholeMilliseconds()
    converted = [milliseconds.convert(0.0004) for _ in range(1000)]
    assert set(converted) == {0, 1}
    assert sum(converted) in (399, 400)
