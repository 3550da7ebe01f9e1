"""The queries of reports, on rows that are made without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.report import queries
from pipeline.report.database import Scope, open_report_data
from tests.lake.rows import append_rows, lake_of
from tests.report.lakes import ROWS, row
from transforms.core.reasons import Reason, Status
from transforms.lake.layout import Layout
from transforms.lake.supersede import supersede


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return lake_of(tmp_path_factory.mktemp("report") / "lake", ROWS)


def test_counts_are_of_all_rows_and_images_leave_duplicates_out(layout: Layout) -> None:
    with open_report_data(Scope(layout)) as data:
        assert queries.status_counts(data) == {
            "routed": 7, "review": 2, "not_xray": 0, "quarantined": 0, "duplicate": 1,
        }  # fmt: skip
        totals = queries.overview(data)
        assert (totals["rows"], totals["images"]) == (10, 9)
        assert (totals["disagreements"], totals["compared"]) == (3, 7)
        assert (totals["conflicts"], totals["conflicting_uids"]) == (2, 1)
        assert [r["images"] for r in queries.days(data)] == [9]
        assert [r["destination"] for r in queries.destinations(data)] == ["spine", "review"]
        modality, rest = queries.breakdown(data, "modality", 1)
        assert (modality["value"], modality["images"], modality["review"]) == ("DX", 8, 2)
        assert (rest["is_rest"], rest["values"], rest["images"]) == (True, 1, 1)


def test_regions_are_counted_where_the_model_predicts_some(tmp_path: Path) -> None:
    knee = {
        "predicted_region": "knee",
        "predicted_region_code": "72696002",
        "region_confidence": 0.9,
    }
    rows = (
        *(row(n, destination="others", **knee) for n in range(2)),
        row(2, destination="others", predicted_region="hand", region_confidence=0.8),
        row(3, destination="others"),
        row(4),
        row(5, destination="review", status=Status.REVIEW, **knee),
    )
    with open_report_data(Scope(lake_of(tmp_path / "lake", rows))) as data:
        found = [(r["region"], r["code"], r["images"], r["share"]) for r in queries.regions(data)]
        assert {r["destination"] for r in queries.regions(data)} == {"others"}
    assert found == [("knee", "72696002", 2, 0.5), ("hand", None, 1, 0.25), (None, None, 1, 0.25)]


def test_the_most_certainly_wrong_headers_come_first(layout: Layout) -> None:
    with open_report_data(Scope(layout)) as data:
        found = queries.disagreements(data, 10)
        assert [r["object_key"] for r in found] == [ROWS[n].object_key for n in (3, 4, 2)]
        assert found[1]["header_probability"] == pytest.approx(0.01)
        assert queries.disagreements(data, 1, offset=1) == found[1:2]


def test_the_least_certain_images_come_first(layout: Layout) -> None:
    with open_report_data(Scope(layout)) as data:
        waiting = queries.review_queue(data, 10, Reason.LOW_CONFIDENCE)
        assert [r["confidence"] for r in waiting] == pytest.approx([0.3, 0.4])
        assert queries.review_queue(data, 10, Reason.TOO_SMALL) == []
        (reason,) = queries.reasons(data, Status.REVIEW)
        assert reason["images"] == 2 and "threshold" in reason["remedy"]


def test_a_run_is_reported_as_it_was_written_and_with_the_places_of_now(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", [row(1), row(2, run_id="later", ingested_at=5)])
    moved = replace(
        row(1), run_id="moved", destination="others", object_uri="objects/elsewhere", decided_at=9
    )
    supersede(layout, [moved], "moved")
    append_rows(layout, row(3, run_id="later.7", ingested_at=6))
    with open_report_data(Scope(layout, "r")) as data:
        assert data.decided_again == 1
        assert [r["destination"] for r in queries.destinations(data)] == ["spine"]
        assert queries.least_confident(data, "spine", 1)[0]["object_uri"] == "objects/elsewhere"
    with open_report_data(Scope(layout, "later")) as data:
        assert queries.overview(data)["rows"] == 2
        assert data.one("SELECT count(*) AS earlier FROM baseline") == {"earlier": 1}
    with open_report_data(Scope(layout, "unknown")) as data:
        assert queries.overview(data)["rows"] == 0 and queries.destinations(data) == []
