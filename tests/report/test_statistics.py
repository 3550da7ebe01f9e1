"""Statistics of reports against values that are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.report import agreement, statistics
from pipeline.report.database import ReportData, Scope, open_report_data
from tests.lake.rows import lake_of
from tests.report.lakes import row
from transforms.core.reasons import Reason, Status
from transforms.lake.labels import UNDO, append_label, new_label

CONFIDENCES = (0.9, 0.8, 0.6, 0.5)
WAITS = {"status": Status.REVIEW, "destination": "review", "reason": Reason.LOW_CONFIDENCE}
ROWS = [
    row(n, confidence=c, **(WAITS if c < 0.7 else {}), manufacturer="A" if n % 2 else "B")
    for n, c in enumerate(CONFIDENCES)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportData]:
    layout = lake_of(tmp_path_factory.mktemp("statistics") / "lake", ROWS)
    answers = ["spine", "others", "spine", "not_radiograph"]
    for number, (one, answer) in enumerate(zip(ROWS, answers, strict=True)):
        append_label(layout, new_label(one, answer, "ann", number))
    append_label(layout, new_label(ROWS[2], "abdominal", "bob", 10))
    mistake = new_label(ROWS[0], "abdominal", "ann", 11)
    append_label(layout, mistake)
    append_label(layout, new_label(ROWS[0], UNDO, "ann", 12, retracts=mistake.label_id))
    with open_report_data(Scope(layout)) as opened:
        agreement.load_labels(opened)
        yield opened


def test_the_expected_risk_is_the_mean_of_what_the_confidences_lack(data: ReportData) -> None:
    curve = statistics.expected_risk(data)
    assert curve is not None and curve.images == 4
    assert curve.coverage == pytest.approx((0.25, 0.5, 0.75, 1.0))
    assert curve.risk == pytest.approx((0.1, 0.15, 0.7 / 3, 0.3))
    assert curve.at(0.5) == pytest.approx(0.15) and curve.at(0.6) == pytest.approx(0.7 / 3)
    summary = statistics.summary_of_confidence(data)
    assert (summary["images"], summary["routed"]) == (4, 2)
    assert summary["expected_error"] == pytest.approx(0.15)


def test_few_labels_make_no_observed_curve(
    data: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statistics.observed_risk(data) is None
    monkeypatch.setattr(statistics, "MIN_COMPARED", 4)
    curve = statistics.observed_risk(data)
    assert curve is not None and curve.risk == pytest.approx((0, 1 / 2, 2 / 3, 3 / 4))


def test_a_histogram_has_each_image_once_and_the_threshold(data: ReportData) -> None:
    (histogram,) = statistics.histograms(data, {"spine": 0.7})
    assert (histogram.label, histogram.threshold) == ("spine", 0.7)
    assert (sum(histogram.routed), sum(histogram.review)) == (2, 2)
    filled = [
        n for n, (a, b) in enumerate(zip(histogram.routed, histogram.review, strict=True)) if a + b
    ]
    width = (1 - histogram.lowest) / statistics.BINS
    for confidence, number in zip(sorted(CONFIDENCES), filled, strict=True):
        low = histogram.lowest + number * width
        assert low - 1e-6 <= confidence <= low + width + 1e-6


def test_the_latest_answer_that_is_not_undone_is_compared(data: ReportData) -> None:
    found = agreement.reviewer_overview(data)
    assert found == {
        "images": 4, "compared": 3, "agreed": 1, "not_radiograph": 1, "unreadable": 0,
        "by_several": 1, "disputed": 1,
    }  # fmt: skip
    matrix = {(r["answer"], r["predicted"]): r["images"] for r in agreement.reviewer_matrix(data)}
    answers = ("spine", "others", "abdominal", "not_radiograph")
    assert matrix == {(answer, "spine"): 1 for answer in answers}
    (label,) = agreement.by_predicted_label(data)
    assert (label["value"], label["compared"], label["agreed"]) == ("spine", 3, 1)
    devices = {r["value"]: (r["compared"], r["agreed"]) for r in agreement.by_device(data, 5)}
    assert devices == {"A": (1, 0), "B": (2, 1)}


def test_the_interval_of_a_share_is_that_of_wilson() -> None:
    assert statistics.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.wilson_interval(0, 0) == (0, 1)
    assert statistics.wilson_interval(0, 3)[0] == 0
    assert statistics.wilson_interval(3, 3)[1] == 1


@pytest.mark.parametrize(("shift", "reading"), [(0.0, "stable"), (0.05, "chance"), (0.3, "large")])
def test_drift_is_read_against_chance(tmp_path: Path, shift: float, reading: str) -> None:
    before = [row(n, confidence=0.5 + n / 200, run_id="before") for n in range(60)]
    now = [row(n, confidence=0.5 + n / 200 + shift, run_id="now") for n in range(60)]
    first, second = lake_of(tmp_path / "a", now), lake_of(tmp_path / "b", before)
    with open_report_data(Scope(first), Scope(second)) as data:
        found = {d.name: d for d in statistics.drift(data, "FROM images", "FROM baseline")}
    assert found["destination"].psi == pytest.approx(0) and found["destination"].reading == "stable"
    drift = found["confidence"]
    assert drift.reading == reading
    assert sum(drift.baseline) == pytest.approx(1) and sum(drift.current) == pytest.approx(1)
    assert set(drift.baseline) == {0.1}
