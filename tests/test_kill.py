"""SIGKILL to the whole process group at several moments; then the lake is as if nothing happened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import soak
from tests.conftest import Lake
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

OBJECTS = 100
"""Enough that batches of films are still to be classified when a run is killed at 25."""


@pytest.fixture(scope="module")
def source(images: Path) -> Path:
    return images


def killed(source: Path, lake: Path, objects: int) -> None:
    """Kill a run once so many objects stand; it must not have ended before."""
    assert soak.kill_at(source, lake, objects, 0.0)
    assert list((lake / "journal").iterdir())


def test_a_lake_that_was_killed_over_equals_one_that_was_not(
    source: Path, baseline_lake: Path, tmp_path: Path
) -> None:
    done = soak.trial(source, baseline_lake, tmp_path / "lake", [(5, 0.0), (15, 0.0), (25, 0.0)])
    assert done.kills >= 2
    assert done.recovered > 0
    assert (done.lost, done.doubled, done.corrupted) == (0, 0, 0)


def test_another_policy_after_a_kill_leaves_no_object_without_a_row(
    source: Path, tmp_path: Path
) -> None:
    lake, policy = tmp_path / "lake", tmp_path / "policy.yaml"
    killed(source, lake, 20)
    policy.write_text("min_long_side: 4000\n")  # everything is reviewed
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source), "--lake"]
    done = subprocess.run(
        [*command, str(lake), "--policy", str(policy), "--json"], capture_output=True, check=True
    )
    counts = json.loads(done.stdout)["counts"]
    assert counts["recovered"] == 0
    assert counts["routed"] == 0
    assert verify_lake(Layout(str(lake)), deep=True).holds
    assert len(Lake(lake).rows()) == OBJECTS


def test_what_a_killed_run_placed_is_indexed_even_if_its_source_is_gone(
    source: Path, tmp_path: Path
) -> None:
    lake, mine = tmp_path / "lake", tmp_path / "source"
    shutil.copytree(source, mine)
    killed(mine, lake, 20)
    for path in mine.iterdir():
        path.unlink()
    (mine / "other.txt").write_bytes(b"no DICOM")
    summary, _ = soak.finish(mine, lake)
    recovered = summary["counts"]["recovered"]
    assert recovered >= 16
    assert summary["counts"]["discovered"] == recovered + 1
    assert verify_lake(Layout(str(lake)), deep=True).holds


def test_a_journaled_object_with_other_bytes_is_not_taken_over(
    source: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    killed(source, lake, 20)
    altered = min((lake / "objects").rglob("*.dcm"))
    data = bytearray(altered.read_bytes())
    data[-1] ^= 1
    altered.write_bytes(data)
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source), "--lake"]
    done = subprocess.run([*command, str(lake), "--json"], capture_output=True)
    assert done.returncode == 1
    failures = json.loads(done.stdout)["failures"]
    assert {failure["reason"] for failure in failures} == {"name_taken"}
    assert not altered.exists()  # no row ever named it
    soak.finish(source, lake)
    assert verify_lake(Layout(str(lake)), deep=True).holds
