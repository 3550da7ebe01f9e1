"""Lakes of the release before are read, verified and added to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, counts
from tests.format1 import Format1Lakes, unpack_format1_lakes

ROWS = {
    "batch": 13,
    "sinks": 12,
    "two_models": 21,
    "stream": 12,
    "stream_compacted": 12,
    "compaction_interrupted": 24,  # a plain reader's; the replaced files are still there
}


@pytest.fixture
def format1(tmp_path: Path) -> Format1Lakes:
    return unpack_format1_lakes(tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_whole_lakes_verify_and_have_their_rows(format1: Format1Lakes, name: str) -> None:
    policy = format1.policy("sinks" if name == "sinks" else "policy")
    assert main(["verify", str(format1.lake(name)), "--deep", "--policy", str(policy)]) == 0
    rows = Lake(format1.lake(name)).rows()
    assert len(rows) == ROWS[name]
    by_source = Counter(Path(row["source_uri"]).relative_to(format1.sources) for row in rows)
    assert len(by_source) == 12
    for row in rows:
        assert Path(row["object_uri"]).is_relative_to(format1.root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_another_run_finds_everything_unchanged(
    format1: Format1Lakes, name: str, route: Route
) -> None:
    policy = format1.policy("sinks" if name == "sinks" else "policy")
    summary = route(
        "--lake", str(format1.lake(name)), "--policy", str(policy), inputs=(str(format1.sources),)
    )
    assert counts(summary) == {"unchanged": 12}


def test_a_run_that_was_killed_is_completed(format1: Format1Lakes, route: Route) -> None:
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
