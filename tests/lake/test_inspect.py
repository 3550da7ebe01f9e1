"""`inspect` explains the objects of a lake by their keys, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.exit_codes import DONE, FAILED
from tests.conftest import Lake


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


def test_the_text_has_the_decision_of_the_lake(
    routed: Path, keys: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", keys["copy of 0.dcm"], keys["0.dcm"]]
    assert main([*command, "--lake", str(routed / "lake")]) == DONE
    out = capsys.readouterr().out
    for name in ("copy of 0.dcm", "0.dcm"):
        assert f"object {keys[name]}, " in out
    assert "in the lake: a duplicate of an object in " in out
    assert "in the lake: routed to " in out
    assert "copy of" not in out, "names of sources may name patients"
    assert main(command[:2]) == FAILED
    assert "--lake looks up an object_key" in capsys.readouterr().err
