"""Lakes of format 1 are read, verified, added to, migrated and compacted; see `tests/format1.py`."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, write
from tests.format1 import Format1Lakes, unpack_format1_lakes
from tests.lake.rows import history
from tests.leftovers import abandon, kill_at
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import BY_MODEL, BY_POLICY
from transforms.lake import migration
from transforms.lake import rewrite as rewrite_module
from transforms.lake import supersede as supersede_module
from transforms.lake.layout import Layout
from transforms.lake.marker import format_of
from transforms.lake.migration import MIGRATION, open_lake
from transforms.lake.schema import COLUMNS
from transforms.lake.verify import verify_lake
from transforms.storage.temporary import remove_abandoned

ROWS = {
    "batch": 13,
    "sinks": 12,
    "two_models": 21,
    "stream": 12,
    "stream_compacted": 12,
    "compaction_interrupted": 24,  # a plain reader's; the replaced files are still there
}
SUPERSEDED = {"two_models": 9}


@pytest.fixture
def format1(tmp_path: Path) -> Format1Lakes:
    return unpack_format1_lakes(tmp_path)


def policy_of(format1: Format1Lakes, name: str) -> Path:
    return format1.policy("sinks" if name == "sinks" else "policy")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_lakes_verify_as_they_are(format1: Format1Lakes, name: str) -> None:
    before = Lake(format1.lake(name)).tree()
    policy = str(policy_of(format1, name))
    assert main(["verify", str(format1.lake(name)), "--deep", "--policy", policy]) == 0
    assert Lake(format1.lake(name)).tree() == before
    rows = Lake(format1.lake(name)).rows()
    assert len(rows) == ROWS[name]
    by_source = Counter(Path(row["source_uri"]).relative_to(format1.sources) for row in rows)
    assert len(by_source) == 12
    for row in rows:
        assert Path(row["object_uri"]).is_relative_to(format1.root)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_lakes_are_migrated_added_to_and_compacted(
    format1: Format1Lakes, name: str, route: Route, tmp_path: Path
) -> None:
    lake, policy = Lake(format1.lake(name)), ("--policy", str(policy_of(format1, name)))
    before = {(row["source_uri"], row["source_version"]): row for row in lake.rows()}
    options = ("--lake", str(lake.root), *policy)
    summary = route(*options, inputs=(str(format1.sources),))
    assert counts(summary) == {"unchanged": 12}

    marker = json.loads((lake.root / "lake.json").read_text())
    assert marker["format"] == 2
    assert set(lake.rows()[0]) == set(COLUMNS)
    rows = {(row["source_uri"], row["source_version"]): row for row in lake.rows()}
    assert rows.keys() == before.keys()
    assert len(lake.rows()) == len(rows)
    assert len(history(lake.root)) == SUPERSEDED.get(name, 0)
    for row in rows.values():
        external = name == "sinks" and row["destination"] in ("review", "quarantine")
        assert row["object_uri"].startswith("/" if external else ("objects/", "quarantine/"))
        assert row["decided_at"] == row["ingested_at"]
        if row["status"] == "quarantined":
            assert row["decided_by"] is None
        elif row["status"] != "duplicate":
            by_rule = row["status"] == "not_xray" or row["reason"] == "too_small"
            assert row["decided_by"] == (BY_POLICY if by_rule else BY_MODEL) or row["reason"] in (
                "settled_by_age",
                "age_contradicted",
            )

    new = write(tmp_path, "new.dcm", dicom_bytes(image(20, (120, 80)), name="20"))
    first = (format1.sources / "a" / "first.dcm").read_bytes()
    copy = write(tmp_path, "another copy.dcm", first)
    summary = route(*options, inputs=(str(format1.sources), str(new), str(copy)))
    assert summary["counts"]["unchanged"] == 12
    assert summary["counts"]["duplicate"] == 1
    assert lake.row(copy)["object_uri"] == lake.row(format1.sources / "a/first.dcm")["object_uri"]
    assert main(["compact", str(lake.root)]) == 0
    assert main(["verify", str(lake.root), "--deep", *policy]) == 0
    assert violations(lake.root) == []


@pytest.mark.slow
def test_an_interrupted_run_is_recovered(format1: Format1Lakes, route: Route) -> None:
    lake = format1.lake("interrupted")
    assert len(list(lake.glob("journal/*.parquet"))) == 1
    policy = str(format1.policy())
    summary = route("--lake", str(lake), "--policy", policy, inputs=(str(format1.sources),))
    assert summary["complete"]
    assert summary["counts"]["unchanged"] == 6
    assert summary["counts"]["duplicate"] == 1
    assert summary["counts"]["conflicts"] == 1
    assert not list(lake.glob("journal/*"))
    assert not list(lake.glob(".tmp/*"))
    assert main(["verify", str(lake), "--deep", "--policy", policy]) == 0
    assert violations(lake) == []


@pytest.mark.slow
def test_the_latest_decision_is_current_and_the_earlier_ones_are_history(
    format1: Format1Lakes,
) -> None:
    """The later model's policy reviews every image."""
    lake = Lake(format1.lake("two_models"))
    before = lake.rows()
    open_lake(Layout(str(lake.root)))
    assert Counter(row["status"] for row in lake.rows())["review"] == 8
    assert len({row["model_id"] for row in lake.rows() if row["model_id"]}) == 1
    old = history(lake.root)
    assert {row["superseded_by"] for row in old} == {MIGRATION}
    known = {(row["source_uri"], row["run_id"], row["status"]) for row in before}
    assert {(row["source_uri"], row["run_id"], row["status"]) for row in old} <= known
    assert violations(lake.root) == []


@pytest.mark.slow
def test_a_copy_of_a_lake_is_a_lake_of_its_own(format1: Format1Lakes, tmp_path: Path) -> None:
    """Its rows name the objects of the original until it is migrated."""
    lake, copy = format1.lake("two_models"), tmp_path / "copy"
    shutil.copytree(lake, copy)
    before = Lake(lake).tree()
    open_lake(Layout(str(copy)))
    assert violations(copy) == []
    assert verify_lake(Layout(str(copy)), deep=True).holds
    assert Lake(lake).tree() == before


STEPS = {
    "write_marker": migration,
    "finish_rewrites": migration,
    "rewrite": migration,
    "finish_supersedes": migration,
    "apply_changes": migration,
    "exchange": rewrite_module,
    "put_if_absent": supersede_module,
    "_rewrite_partition": supersede_module,
    "remove_unreferenced": supersede_module,
}


CASES = [
    (name, step)
    for name, step in itertools.product(["two_models", "compaction_interrupted"], STEPS)
    if name == "two_models" or (STEPS[step] is not supersede_module and step != "apply_changes")
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "step"), CASES)
def test_a_migration_that_is_killed_is_completed_by_the_next(
    format1: Format1Lakes, tmp_path: Path, name: str, step: str, after: bool
) -> None:
    lake, pristine = format1.lake(name), tmp_path / "pristine"
    layout = Layout(str(lake))
    shutil.copytree(lake, pristine)
    open_lake(layout)
    expected = contents(lake)
    for call in itertools.count():
        shutil.rmtree(lake)
        shutil.copytree(pristine, lake)
        if not kill_at(STEPS[step], step, call, after, lambda: open_lake(layout)):
            assert call, "the step was not reached"
            return
        assert verify_lake(layout, deep=True).violations == []
        abandon(lake / ".tmp")
        remove_abandoned(lake / ".tmp")
        open_lake(layout)
        assert format_of(layout) == 2
        assert contents(lake) == expected
        assert violations(lake) == []


def contents(lake: Path) -> tuple[Any, ...]:
    """Return what a lake has, but for names of index files and times of superseding."""
    old = [{**row, "superseded_at": None} for row in history(lake)]
    key = "source_uri", "source_version", "run_id"
    objects = {p.relative_to(lake).as_posix() for p in lake.rglob("*.dcm")}
    left = [*lake.glob("journal/*"), *lake.glob(".rewrite/*"), *lake.glob(".compaction/*")]
    return (
        Lake(lake).rows(),
        sorted(old, key=lambda row: [row[name] for name in key]),
        objects,
        left,
    )
