"""A complete run that is not as the policy expects exits with 3 and says why, however quiet it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.exit_codes import DONE, UNEXPECTED, USAGE
from tests.conftest import Lake, write
from tests.synthetic import dicom_bytes, image

POLICY = """
thresholds: {abdominal: 1, adult_chest: 1, pediatric_chest: 1, spine: 1, others: 1}
expect:
  min_new_objects: 1
  max_review_share: 0.5
  min_sample: 2
  drift: {max_psi: 0.1, min_images: 2, baseline: 2026-01-01/2026-01-01}
"""


@pytest.mark.slow
def test_a_night_of_quarantine_is_not_silent(
    lake: Lake, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source, "a", b"not DICOM")
    command = ["route", "--input", str(source), "--lake", str(lake.root), "--quiet"]
    assert main(command) == UNEXPECTED
    out, err = capsys.readouterr()
    assert out == ""
    assert "is complete, but not as the policy expects" in err
    assert "(expect.not_all_quarantined), found 0 of 1; " in err
    assert main(command) == DONE, "nothing new arrived"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_the_reasons_are_printed_and_in_the_summary(
    lake: Lake, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write(tmp_path, "policy.yaml", POLICY.encode())
    options = ["--lake", str(lake.root), "--policy", str(policy)]
    for number in range(3):
        write(source, f"{number}.dcm", dicom_bytes(image(number, (96, 64)), name=str(number)))
    assert (
        main(["route", "--input", str(source), *options, "--ingest_date=2026-01-01"]) == UNEXPECTED
    )
    out, err = capsys.readouterr()
    assert "expected at most 50.0% of the radiographs in review" in err
    assert "found 100.0% (3 of 3)" in err
    assert "(expect.min_new_objects), found 3" not in err, "what is met is not printed"
    assert " objects/s, " in out
    assert ", 1 input, " in out

    night = [f"--input={source}/{number}.dcm" for number in range(3, 5)]
    for number in range(3, 5):
        write(source, f"{number}.dcm", dicom_bytes(image(number, (96, 64)), name=str(number)))
    assert main(["route", *night, *options, "--json"]) == UNEXPECTED
    out, err = capsys.readouterr()
    summary = json.loads(out)
    checked = {one["key"]: one for one in summary["expectations"]}
    assert {key: one["met"] for key, one in checked.items()} == {
        "expect.min_new_objects": True,
        "expect.max_review_share": False,
        "expect.not_all_quarantined": True,
        "expect.drift.max_psi": True,
    }
    assert checked["expect.max_review_share"]["text"] in err
    assert checked["expect.drift.max_psi"]["found"] is not None, (
        "2 images against 3 of an earlier day"
    )
    assert summary["complete"] and summary["inputs"] == 2
    assert summary["duration_s"] > 0 and summary["bytes_per_s"] > 0 and summary["host"]
    assert summary["started_at"] <= summary["finished_at"]
    stored = json.loads((lake.root / "runs" / f"{summary['run_id']}.json").read_text())
    assert stored["expectations"] == summary["expectations"]
    assert str(source) not in json.dumps(stored), "paths may name patients"

    assert main(["route", *night, *options, "--quiet"]) == UNEXPECTED
    assert (
        "expected at least 1 new objects (expect.min_new_objects), found 0"
        in capsys.readouterr().err
    )
    bad = write(tmp_path, "bad.yaml", b"expect: {max_review_share: 2, min_object: 1}")
    assert main(["route", *night, "--lake", str(lake.root), "--policy", str(bad)]) == USAGE
    assert "2 errors" in capsys.readouterr().err
