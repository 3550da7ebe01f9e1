"""A lake shows how reliable headers are, by confident pixels and persons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.lake.rows import append_rows, index_row, place
from transforms.core.labels import LABELS
from transforms.core.reasons import BY_PERSON, Reason, Status
from transforms.imaging.header_evidence import HeaderClaims, HeaderReliability
from transforms.lake import header_reliability
from transforms.lake.header_reliability import (
    claims_of,
    count_claims,
    read_reliability,
    update_reliability,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow, to_table


def image(number: int, label: str = "spine", probability: float = 0.97, **columns: Any) -> IndexRow:
    """Return the row of an image whose pixels show a label."""
    rest = (1 - probability) / (len(LABELS) - 1)
    found = {f"prob_{one}": probability if one == label else rest for one in LABELS}
    return index_row(
        f"/in/{number}.dcm",
        f"{number:064x}",
        sop_instance_uid=f"1.2.{number}",
        **{"predicted_label": label, "destination": label, **found, **columns},
    )


def counted(*rows: IndexRow) -> HeaderReliability:
    return count_claims(iter([to_table(rows)]))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A lake of which four objects are enough to learn from."""
    monkeypatch.setattr(header_reliability, "MIN_OBJECTS", 4)
    return Layout(str(tmp_path / "lake"))


def test_confident_pixels_are_compared_with_every_element() -> None:
    rows = [
        image(n, manufacturer="Acme  Imaging", body_part_region="SPINE", view_position="LL")
        for n in range(30)
    ]
    rows += [image(n, manufacturer="ACME IMAGING", body_part_region="CHEST") for n in range(30, 40)]
    rows += [
        image(n, "others", manufacturer="Agfa", protocol_name_region="OTHER", patient_age_years=3.0)
        for n in range(40, 45)
    ]
    found = counted(*rows)
    assert found.objects == 45
    by_claim = {"SPINE": 30, "CHEST": 10}
    assert found.counts == {
        "body_part_region": {"": {"spine": by_claim}, "ACME IMAGING": {"spine": by_claim}},
        "coded_region": {},
        "series_description_region": {},
        "protocol_name_region": {"": {"others": {"OTHER": 5}}},
        "view_position": {
            "": {"spine": {"LATERAL": 30}},
            "ACME IMAGING": {"spine": {"LATERAL": 30}},
        },
        "patient_age_years": {"": {"others": {"CHILD": 5}}},
    }
    agreement = found.summary()["agreement"]["body_part_region"]
    assert agreement["ACME IMAGING"] == agreement["all"] == {"objects": 40, "agree": 0.75}


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({}, "spine"),
        ({"probability": 0.89}, None),
        ({"reason": Reason.SETTLED_BY_AGE, "label": "adult_chest"}, "adult_chest"),
        ({"reason": Reason.AGE_CONTRADICTED, "destination": "review"}, "spine"),
        ({"reason": Reason.SETTLED_BY_HEADER}, None),
        ({"reason": Reason.OUT_OF_DISTRIBUTION}, None),
        ({"status": Status.DUPLICATE}, None),
        ({"decided_by": BY_PERSON, "destination": "others", "probability": 0.3}, "others"),
        ({"decided_by": BY_PERSON, "destination": "not_xray"}, None),
    ],
)
def test_only_confident_pixels_and_persons_show_the_truth(
    columns: dict[str, Any], label: str | None
) -> None:
    found = counted(image(1, body_part_region="SPINE", **columns))
    expected = {"": {label: {"SPINE": 1}}} if label else {}
    assert found.counts["body_part_region"] == expected


def test_rows_of_earlier_releases_have_a_header_label_only() -> None:
    row = image(1, header_label="adult_chest")
    assert claims_of(row) == HeaderClaims(body_part_region="CHEST")
    table = to_table([row]).drop_columns(["body_part_region", "coded_region"])
    found = count_claims(iter([table, pa.table({"reason": ["confident"]})]))
    assert found.counts["body_part_region"] == {"": {"spine": {"CHEST": 1}}}
    own = image(1, header_label="adult_chest", coded_region="CHEST")
    assert claims_of(own) == HeaderClaims(coded_region="CHEST")


def test_a_lake_is_counted_again_when_it_has_doubled(lake: Layout) -> None:
    rows = [image(n, body_part_region="SPINE") for n in range(10)]
    assert update_reliability(lake) == read_reliability(lake) == HeaderReliability()
    append_rows(lake, *rows[:3])
    assert update_reliability(lake) == HeaderReliability()
    append_rows(lake, rows[3])
    first = update_reliability(lake)
    assert (first.generation, first.index_rows, first.objects) == (1, 4, 4)
    append_rows(lake, *rows[4:7])
    assert update_reliability(lake) == read_reliability(lake) == first
    append_rows(lake, *rows[7:])
    second = update_reliability(lake)
    assert (second.generation, second.objects) == (2, 10)
    assert second.reliability_id != first.reliability_id
    folder = Path(lake.header_reliability)
    assert sorted(one.name for one in folder.iterdir()) == ["000001.json", "000002.json"]
    assert json.loads((folder / "000002.json").read_text())["objects"] == 10


def test_a_run_after_an_interrupted_one_decides_as_that_would_have(lake: Layout) -> None:
    append_rows(lake, *(image(n, body_part_region="SPINE") for n in range(10)))
    place(lake, "/in/x.dcm")
    assert update_reliability(lake) == HeaderReliability()
