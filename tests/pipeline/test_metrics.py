"""What a run measured: in its summary, on the terminal, in the lake, and never in its way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from apache_beam.metrics.cells import DistributionData, DistributionResult
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metric import MetricName
from apache_beam.runners.portability.fn_api_runner.fn_runner import RunnerResult
from pydicom.uid import CTImageStorage

from pipeline import metrics_report
from pipeline.cli import main
from tests.conftest import Lake, counts, write
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import Status
from transforms.metrics import (
    NAMESPACE,
    RUN_INFERENCE,
    CounterName,
    DistributionName,
    WholeMilliseconds,
)

SMALL = (96, 64)

OF_A_BATCH = [name for name in DistributionName if name != DistributionName.DELAY_S]


@pytest.fixture
def sizes(source: Path) -> list[int]:
    """A source with every status; gives the sizes of its objects."""
    images = [dicom_bytes(image(n, SMALL), name=str(n)) for n in range(5)]
    for number, data in enumerate(images):
        write(source, f"{number}.dcm", data)
    write(source, "twin.dcm", images[0])
    write(source, "ct.dcm", dicom_bytes(image(9, SMALL), name="9", SOPClassUID=CTImageStorage))
    write(source, "broken.dcm", b"no DICOM")
    return [path.stat().st_size for path in source.iterdir()]


def test_films_that_no_fast_decoder_reads_are_counted(route, source: Path) -> None:
    write(source, "gray.dcm", dicom_bytes(image(1, SMALL), name="1"))
    gray = image(2, SMALL).astype("u1")
    write(source, "colour.dcm", dicom_bytes(np.stack([gray] * 3, axis=2), name="2"))
    assert route()["metrics"]["counters"]["decoded_whole"] == 1


def test_the_summary_tells_what_was_measured(route, lake: Lake, sizes: list[int]) -> None:
    summary = route()
    counters, spreads = summary["metrics"]["counters"], summary["metrics"]["distributions"]
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
    assert counters["bytes_read"] == spreads["object_bytes"]["sum"] == sum(sizes)

    assert list(spreads) == OF_A_BATCH
    for name in ("fetch_ms", "decode_ms", "place_ms", "object_bytes"):
        assert spreads[name]["count"] == objects, name
    assert (spreads["object_bytes"]["min"], spreads["object_bytes"]["max"]) == (
        min(sizes),
        max(sizes),
    )
    assert spreads["batch_films"]["sum"] == images
    assert spreads["inference_ms"]["count"] == spreads["batch_films"]["count"]
    assert 0 < spreads["inference_ms"]["mean"] < 60_000
    assert spreads["decode_ms"]["sum"] > 0
    assert spreads["index_ms"]["count"] == len(list(lake.root.glob("index/**/*.parquet")))
    for spread in spreads.values():
        assert set(spread) == {"count", "mean", "min", "max", "sum"}
        assert spread["min"] <= spread["mean"] <= spread["max"]
        assert spread["mean"] == pytest.approx(spread["sum"] / spread["count"], abs=0.001)


def test_the_lake_keeps_them_apart_from_the_summaries(
    route, lake: Lake, sizes: list[int], capsys
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


def test_a_person_sees_a_few_lines(lake: Lake, source: Path, sizes: list[int], capsys) -> None:
    assert main(["route", "--input", str(source), "--lake", str(lake.root)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "  max " in line]
    assert [line.split()[0] for line in lines] == [name.step for name in OF_A_BATCH]
    assert lines[0].startswith("  fetch      mean ")
    assert lines[0].endswith(f" ms  ({len(sizes)} objects)")


def test_what_fails_is_counted_by_its_reason(route, lake: Lake, source: Path, tmp_path) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, SMALL)))
    manifest = write(
        tmp_path, "list.txt", f"{source}/a.dcm\n{source}/gone-1\n{source}/gone-2\n".encode()
    )
    summary = route("--source", "manifest", inputs=(str(manifest),), expect=1)
    counters = summary["metrics"]["counters"]
    assert (counters["failed"], counters["reason_disappeared"]) == (2, 2)
    assert (lake.root / "runs" / "metrics" / f"{summary['run_id']}.json").exists()


def test_what_is_too_large_is_fetched_but_not_decoded(route, source: Path) -> None:
    write(source, "a.dcm", dicom_bytes(image(1)))
    metrics = route("--max_object_bytes", "1000")["metrics"]
    assert metrics["counters"]["reason_too_large"] == metrics["counters"]["status_quarantined"] == 1
    assert metrics["distributions"]["fetch_ms"]["count"] == 1
    assert "decode_ms" not in metrics["distributions"]


def test_a_run_is_as_good_without(
    route, lake: Lake, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(result: RunnerResult) -> None:
        raise NotImplementedError

    monkeypatch.setattr(RunnerResult, "metrics", refuse)
    summary = route()
    assert summary["complete"]
    assert "metrics" not in summary
    assert not (lake.root / "runs" / "metrics").exists()
    assert main(["verify", str(lake.root)]) == 0


def test_a_lake_that_does_not_take_them_is_as_good(
    route, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: str, data: bytes, *, scratch: str) -> None:
        raise OSError

    monkeypatch.setattr(metrics_report, "put_if_absent", refuse)
    summary = route()
    assert summary["complete"]
    assert summary["metrics"]["counters"]["discovered"] == len(sizes)


class Told:
    """A result as engines give it: steps apart, committed values or only attempted ones."""

    def metrics(self) -> Told:
        return self

    def query(self, asked: object) -> dict[str, list[MetricResult]]:
        def of(step: str, name: str, committed, attempted, space: str = NAMESPACE) -> MetricResult:
            return MetricResult(MetricKey(step, MetricName(space, name)), committed, attempted)

        def spread(*values: int) -> DistributionResult:
            return DistributionResult(
                DistributionData(sum(values), len(values), min(values), max(values))
            )

        nothing = DistributionResult(DistributionData(0, 0, 2**63 - 1, -(2**63)))
        latency = "inference_batch_latency_micro_secs"
        return {
            "counters": [
                of("a", CounterName.PLACED, 2, 9),
                of("b", CounterName.PLACED, None, 3),
                of("c", CounterName.FAILED, 0, 5),
                of("d", "num_inferences", 1, 1, RUN_INFERENCE),
            ],
            "distributions": [
                of("a", "place_ms", spread(1, 3), spread(1, 3, 50)),
                of("b", "place_ms", None, spread(8)),
                of("c", "place_ms", nothing, nothing),
                of("d", latency, spread(1500, 2500), None, RUN_INFERENCE),
                of("d", "model_byte_size", spread(5), None, RUN_INFERENCE),
            ],
        }


def test_steps_are_added_up_committed_values_first() -> None:
    assert metrics_report.metrics_of(Told()) == {
        "counters": {"placed": 5},
        "distributions": {
            "inference_ms": {"count": 2, "mean": 2.0, "min": 1.5, "max": 2.5, "sum": 4.0},
            "place_ms": {"count": 3, "mean": 4.0, "min": 1, "max": 8, "sum": 12},
        },
    }


def test_parts_of_milliseconds_are_carried_on() -> None:
    whole = WholeMilliseconds()
    got = [whole.of(0.0004) for _ in range(1000)]
    assert set(got) == {0, 1}
    assert sum(got) in (399, 400)
