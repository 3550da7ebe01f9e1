"""What is skipped in an input is counted in the summary, for folders, stores and streams alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, route_into, write
from tests.stores import Store
from tests.synthetic import dicom_bytes, image

DICOM = dicom_bytes(image(1, (96, 64)), name="1")
NAMES = ("a.dcm", "._a.dcm", "day/.DS_Store", "day/DICOMDIR", "day/.b.dcm.aZ09aZ", "day/skip/c.dcm")
SKIPPED = {"excluded": 4, "media_directory": 1}


@pytest.mark.slow
def test_skipped_names_are_counted_and_explained(
    source: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        write(source, name, DICOM)
    options = ["--input", str(source), "--lake", str(lake.root), "--exclude", "skip", "x*"]
    assert main(["route", *options]) == 0
    text = capsys.readouterr().out
    assert "4  excluded: excluded by name (--include, --exclude" in text
    assert "1  media_directory: DICOMDIR files" in text
    assert [row["source_uri"] for row in lake.rows()] == [str(source / "a.dcm")]


@pytest.mark.slow
def test_skipped_objects_of_a_store_are_counted(store: Store, lake: Lake, route: Route) -> None:
    for name in NAMES:
        store.write(f"in/{name}", DICOM)
    for name in ("lake.json", "index/x", "objects/x", "runs/x"):
        store.write(f"in/other/{name}", b"{}")
    store.write("in/objects/no-lake.dcm", DICOM)
    for pattern in ("in", "in/", "in/**", "in/*"):
        summary = route("--exclude", "skip", inputs=(f"{store.root}/{pattern}",))
        assert summary["skipped"] == {**SKIPPED, "lake": 1}
        assert summary["counts"]["discovered"] == 2


@pytest.mark.slow
def test_an_input_of_which_all_is_skipped_is_refused(
    source: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source, ".DS_Store", b"\0\0\0\1Bud1")
    command = ["route", "--input", str(source), "--lake", str(lake.root)]
    assert main(command) == 2
    assert "matches no object, only excluded by name" in capsys.readouterr().err
    assert main([*command, "--allow_empty"]) == 0


@pytest.mark.slow
def test_a_lake_is_not_an_input_of_another(source: Path, tmp_path: Path) -> None:
    write(source, "a.dcm", DICOM)
    inside, other = Lake(source / "lake"), Lake(tmp_path / "other")
    route_into(inside, inputs=(str(source),))
    summary = route_into(other, inputs=(str(source),))
    assert summary["skipped"] == {"lake": 1}
    assert [row["source_uri"] for row in other.rows()] == [str(source / "a.dcm")]
