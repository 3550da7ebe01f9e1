"""After SIGKILL to the process group at several moments, the next run completes the lake."""

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

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.xdist_group("kill")]

OBJECTS = 100
"""Enough that images are still to be classified when a run is killed at 25 placed objects."""


@pytest.fixture(scope="module")
def source(images: Path) -> Path:
    return images


def interrupt_run(source: Path, lake: Path, objects: int) -> None:
    """Kill a run once `objects` are placed; it must not have ended before."""
    assert soak.kill_at(source, lake, objects, 0.0)
    assert list((lake / "journal").iterdir())


def test_a_lake_of_killed_runs_equals_the_baseline(
    source: Path, baseline_lake: Path, tmp_path: Path
) -> None:
    trial = soak.trial(source, baseline_lake, tmp_path / "lake", [(5, 0.0), (15, 0.0), (25, 0.0)])
    assert trial.kills >= 2
    assert trial.recovered > 0
    assert (trial.lost, trial.duplicated, trial.corrupted) == (0, 0, 0)


def test_a_changed_policy_after_a_kill_leaves_no_orphans(source: Path, tmp_path: Path) -> None:
    lake, policy = tmp_path / "lake", tmp_path / "policy.yaml"
    interrupt_run(source, lake, 20)
    policy.write_text("min_long_side: 4000\n")  # sends every image to review
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source), "--lake"]
    done = subprocess.run(
        [*command, str(lake), "--policy", str(policy), "--json"], capture_output=True, check=True
    )
    counts = json.loads(done.stdout)["counts"]
    assert counts["recovered"] == 0
    assert counts["routed"] == 0
    assert verify_lake(Layout(str(lake)), deep=True).holds
    assert len(Lake(lake).rows()) == OBJECTS


def test_objects_of_a_killed_run_are_indexed_even_without_their_source(
    source: Path, tmp_path: Path
) -> None:
    lake, copy = tmp_path / "lake", tmp_path / "source"
    shutil.copytree(source, copy)
    interrupt_run(copy, lake, 20)
    for path in copy.iterdir():
        path.unlink()
    (copy / "other.txt").write_bytes(b"not DICOM")
    summary, _ = soak.finish(copy, lake)
    recovered = summary["counts"]["recovered"]
    assert recovered >= 16
    assert summary["counts"]["discovered"] == recovered + 1
    assert verify_lake(Layout(str(lake)), deep=True).holds


def test_a_journaled_object_with_altered_bytes_is_not_recovered(
    source: Path, tmp_path: Path
) -> None:
    """No row ever named it: it is removed, and its source is routed again."""
    lake = tmp_path / "lake"
    interrupt_run(source, lake, 20)
    altered = min((lake / "objects").rglob("*.dcm"))
    original = altered.read_bytes()
    altered.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    soak.finish(source, lake)
    assert altered.read_bytes() == original
    assert verify_lake(Layout(str(lake)), deep=True).holds
