"""Headers decide what pixels leave open, in runs and when decided again from stored columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, route_into, write
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import BY_POLICY, Reason

CLAIMS: dict[str, dict[str, str]] = {
    "chest": {"BodyPartExamined": "CHEST"},
    "abdomen": {"BodyPartExamined": "ABDOMEN"},
    "spine": {"ProtocolName": "LWS, Zuweiser Dr. Geheim"},
    "other": {"SeriesDescription": "Hand of Mr. Geheim"},
    "none": {"SeriesDescription": "Mr. Geheim"},
}
"""Elements of objects with the same pixels, by name."""


def policy_file(folder: Path, mode: str, threshold: float) -> Path:
    """Write a policy with one threshold for all labels; no image is out of distribution."""
    labels = ("abdominal", "adult_chest", "pediatric_chest", "spine", "others")
    thresholds = json.dumps(dict.fromkeys(labels, threshold))
    text = f"thresholds: {thresholds}\nood_threshold: 1000\nmin_long_side: 10\n"
    return write(folder, f"{mode}.yaml", f"{text}header_evidence: {mode}\n".encode())


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that shows what headers claim, and whose policy reviews every image; see `CLAIMS`."""
    folder = tmp_path_factory.mktemp("shown")
    for number, (name, elements) in enumerate(CLAIMS.items()):
        data = dicom_bytes(image(3, (96, 64)), name=str(number), **elements)
        write(folder / "source", f"{name}.dcm", data)
    lake = Lake(folder / "lake")
    policy = policy_file(folder, "show", 1.0)
    summary = route_into(lake, "--policy", str(policy), inputs=(str(folder / "source"),))
    assert summary["header_reliability"]["generation"] == 0
    return lake


def by_name(lake: Lake) -> dict[str, dict[str, Any]]:
    return {Path(row["source_uri"]).stem: row for row in lake.rows()}


@pytest.mark.slow
def test_claims_are_shown_and_decide_nothing(shown: Lake) -> None:
    rows = by_name(shown)
    assert {row["reason"] for row in rows.values()} == {"low_confidence"}
    claimed = {
        name: [
            row[column]
            for column in (
                "body_part_region",
                "series_description_region",
                "protocol_name_region",
            )
        ]
        for name, row in rows.items()
    }
    assert claimed == {
        "chest": ["CHEST", None, None],
        "abdomen": ["ABDOMEN", None, None],
        "spine": [None, None, "SPINE"],
        "other": [None, "OTHER", None],
        "none": [None, None, None],
    }
    assert rows["none"]["combined_label"] is None
    assert all(row["combined_confidence"] > 0 for name, row in rows.items() if name != "none")
    assert len({row["confidence"] for row in rows.values()}) == 1
    assert not [path for path in shown.root.rglob("*.parquet") if b"Geheim" in path.read_bytes()]


@pytest.mark.slow
def test_a_header_decides_again_as_in_a_run(
    shown: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = by_name(shown)
    confidence = before["none"]["confidence"]
    highest = max(row["combined_confidence"] or 0 for row in before.values())
    threshold = (confidence + highest) / 2
    monkeypatch.setattr("transforms.config.policy.MIN_COMBINED_CONFIDENCE", threshold)
    assert confidence < threshold < highest
    policy = ("--policy", str(policy_file(tmp_path, "on", threshold)))
    source = str(shown.root.parent / "source")
    fresh = Lake(tmp_path / "lake")
    route_into(fresh, *policy, inputs=(source,))
    assert main(["reroute", str(shown.root), "--apply", "--quiet", *policy]) == 0
    after = by_name(shown)
    decided = [
        name for name, row in before.items() if (row["combined_confidence"] or 0) >= threshold
    ]
    for name, row in after.items():
        same = ["destination", "reason", "decided_by", "combined_label", "region_code", "policy_id"]
        if name in decided:
            assert row["reason"] == Reason.SETTLED_BY_HEADER
            assert row["decided_by"] == BY_POLICY
            assert row["destination"] == row["combined_label"]
            assert row["confidence"] < threshold <= row["combined_confidence"]
        else:
            assert row["reason"] == Reason.LOW_CONFIDENCE
            same.remove("policy_id")  # its row is still that of the first run
        assert [row[column] for column in same] == [by_name(fresh)[name][column] for column in same]
    for lake in (shown, fresh):
        assert main(["verify", str(lake.root), "--deep"]) == 0
        assert violations(lake.root) == []
