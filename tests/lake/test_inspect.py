"""`inspect` explains the objects of a lake by their keys, for people and for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.exit_codes import DONE, FAILED
from pipeline.explain import Decision
from tests.conftest import Lake
from transforms.config.policy import ModelLimits, Policy
from transforms.core.labels import LABELS
from transforms.core.reasons import BY_MODEL, BY_PERSON, MEANINGS, Reason, Status
from transforms.lake.find_rows import find_rows
from transforms.lake.layout import Layout


@pytest.fixture(scope="module")
def keys(routed: Path) -> dict[str, str]:
    """The object keys of the lake by the names of the sources."""
    rows = Lake(routed / "lake").rows()
    return {Path(row["source_uri"]).name: row["object_key"] for row in rows}


def test_objects_of_a_lake_are_found_by_their_keys(
    routed: Path, keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ["--policy", str(routed / "strict.yaml")]
    names = [keys["0.dcm"], keys["broken"], "0123456789ab", str(routed / "source" / "1.dcm")]
    command = ["inspect", *names, "--lake", str(routed / "lake"), *policy, "--json"]
    assert main(command) == FAILED
    out, err = capsys.readouterr()
    image, broken, named = found = [json.loads(line) for line in out.splitlines()]
    assert [one["file"] for one in found] == [1, 2, 4]
    assert f"file 3 (0123456789ab) cannot be read: {routed / 'lake'} has no row of it" in err

    assert image["object_key"] == keys["0.dcm"]
    assert sum(image["prediction"]["probabilities"].values()) == pytest.approx(1)
    assert image["decision"]["status"] == "review", "by the strict policy"
    assert "fewer than 4000" in image["decision"]["why"]
    stored: dict[str, Any] = image["stored"]
    assert stored["status"] == "routed", "by the policy of the run"
    assert (routed / "lake" / stored["object_uri"]).read_bytes() == (
        routed / "source" / "0.dcm"
    ).read_bytes()
    assert (broken["prediction"], broken["stored"]["reason"]) == (None, "not_dicom")
    assert broken["decision"]["remedy"]
    assert "stored" not in named


def test_keys_without_a_row_need_no_model(
    routed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.explain", None)  # its import fails
    keys = ["0123456789ab", "ba9876543210"]
    assert main(["inspect", *keys, "--lake", str(routed / "lake"), "--json"]) == FAILED
    out, err = capsys.readouterr()
    assert (out, err.count("has no row of it")) == ("", 2)


def test_the_text_has_the_decision_of_the_lake(
    routed: Path, keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", keys["copy of 0.dcm"], keys["0.dcm"]]
    assert main([*command, "--lake", str(routed / "lake")]) == DONE
    out = capsys.readouterr().out
    for name in ("copy of 0.dcm", "0.dcm"):
        assert f"object {keys[name]}, " in out
    assert "In the lake: a duplicate of an object in " in out
    assert "In the lake: routed to " in out
    assert out.index("In the lake") < out.index("Decided now by model ") < out.index("modality")
    assert "the row was decided by model" not in out
    assert "copy of" not in out, "names of sources may name patients"
    assert main(command[:2]) == FAILED
    assert "--lake looks up an object_key" in capsys.readouterr().err


def test_a_row_of_another_model_or_of_a_person_is_told_apart(
    routed: Path, keys: dict[str, str]
) -> None:
    layout = Layout(str(routed / "lake"))
    (stored,) = find_rows(layout, keys["0.dcm"])
    now = replace(stored, status=Status.REVIEW, reason=Reason.LOW_CONFIDENCE, model_id="new-1")
    policy = Policy().with_defaults(ModelLimits(dict.fromkeys(LABELS, 0.5), 1000.0))

    def explained(by: str) -> Decision:
        return Decision(now, None, policy, replace(stored, model_id="old-1", decided_by=by))

    text = explained(BY_MODEL).text()
    assert f"Decided now by model new-1, policy {now.policy_id} (not stored)" in text
    assert "the row was decided by model old-1; --model decides as that did" in text
    assert MEANINGS[Reason.LOW_CONFIDENCE].remedy in text
    of_person = explained(BY_PERSON)
    assert "by person" in of_person.text()
    assert MEANINGS[Reason.LOW_CONFIDENCE].remedy not in of_person.text()
    assert of_person.to_json()["decision"]["remedy"] == ""


def test_the_text_has_thresholds_where_an_age_decides(routed: Path, keys: dict[str, str]) -> None:
    (row,) = find_rows(Layout(str(routed / "lake")), keys["0.dcm"])
    limits = ModelLimits(dict.fromkeys(LABELS, 0.5), 1000.0, age_thresholds={"adult_chest": 0.875})
    image = np.zeros((1, 32, 32), np.uint8)
    lines = Decision(row, image, Policy().with_defaults(limits)).text().splitlines()
    shown = {line.split()[0]: line.partition("routed from ")[2] for line in lines if line.strip()}
    assert (shown["adult_chest"], shown["spine"]) == ("0.5 (by age 0.875)", "0.5")
