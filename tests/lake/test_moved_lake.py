"""A lake is whole wherever it is moved, remounted or restored to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into, write
from tests.format1 import unpack_format1_lakes
from tests.synthetic import dicom_bytes, image


@pytest.fixture
def moved(copied: Lake, tmp_path: Path) -> Lake:
    """The lake of `routed`, moved."""
    elsewhere = tmp_path / "another mount" / "lake"
    elsewhere.parent.mkdir()
    copied.root.rename(elsewhere)
    return Lake(elsewhere)


@pytest.mark.slow
def test_a_moved_lake_verifies(moved: Lake) -> None:
    assert main(["verify", str(moved.root), "--deep"]) == 0
    assert violations(moved.root) == []


@pytest.mark.slow
def test_a_moved_lake_is_added_to_and_compacted(moved: Lake, routed: Path, tmp_path: Path) -> None:
    old = str(routed / "source")
    assert counts(route_into(moved, inputs=(old,))) == {"unchanged": 6}
    new = write(tmp_path, "new.dcm", dicom_bytes(image(5, (96, 64)), name="5"))
    again = (routed / "source" / "0.dcm").read_bytes()
    copy = write(tmp_path, "copy.dcm", again)
    lenient = ("--policy", str(routed / "lenient.yaml"))
    summary = route_into(moved, *lenient, inputs=(old, str(new), str(copy)))
    assert counts(summary) == {"routed": 1, "duplicate": 1, "unchanged": 6}
    assert moved.row(copy)["object_uri"] == moved.row(routed / "source" / "0.dcm")["object_uri"]
    assert main(["compact", str(moved.root)]) == 0
    assert main(["verify", str(moved.root), "--deep"]) == 0
    assert violations(moved.root) == []


@pytest.mark.slow
def test_rows_of_an_interrupted_run_are_recovered_after_a_move(
    interrupt: Callable[..., None], source: Path, lake: Lake, tmp_path: Path
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, (96, 64)), name="1"))
    interrupt(source)
    assert list(lake.root.glob("objects/**/*.dcm"))
    moved = Lake(tmp_path / "moved")
    lake.root.rename(moved.root)
    summary = route_into(moved, inputs=(str(source),))
    assert summary["counts"]["recovered"] == 1
    assert violations(moved.root) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch", "two_models", "stream_compacted"])
def test_a_moved_lake_of_format_1_is_migrated(tmp_path: Path, name: str) -> None:
    format1 = unpack_format1_lakes(tmp_path / "format1")
    lake = Lake(tmp_path / "moved" / "lake")
    lake.root.parent.mkdir()
    format1.lake(name).rename(lake.root)
    policy = ("--policy", str(format1.policy()))
    assert counts(route_into(lake, *policy, inputs=(str(format1.sources),))) == {"unchanged": 12}
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []
