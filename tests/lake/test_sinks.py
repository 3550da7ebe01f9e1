"""Sinks with roots of their own: each belongs to one lake, and no object there is without a row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, route_into
from tests.lake.conftest import LENIENT, STRICT


@pytest.fixture(scope="module")
def shared(routed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake whose policy, `policy.yaml`, sends review to a root beside it, `sink`."""
    folder = tmp_path_factory.mktemp("sinks")
    policy = policy_of(folder, "policy", STRICT, folder / "sink")
    route_into(Lake(folder / "lake"), *policy, inputs=(str(routed / "source"),))
    assert len(list((folder / "sink").rglob("*.dcm"))) == 3
    return folder


def policy_of(folder: Path, name: str, policy: str, sink: Path | None = None) -> tuple[str, str]:
    """Write a policy, with a root for review; return the option that names it."""
    path = folder / f"{name}.yaml"
    path.write_text(policy if sink is None else f"{policy}sinks: {{review: '{sink}'}}\n")
    return "--policy", str(path)


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.name not in (".lock", ".writer.lock")}


@pytest.mark.slow
@pytest.mark.parametrize("given", ["same sink", "lake as sink", "sink as lake"])
@pytest.mark.parametrize(
    "source",
    [["files"], ["watch", "--prism_location", sys.executable]],
    ids=["batch", "stream"],
)
def test_a_root_of_another_lake_is_refused(
    shared: Path,
    routed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: str,
    source: list[str],
) -> None:
    roots = {
        "same sink": (tmp_path / "second", shared / "sink"),
        "lake as sink": (tmp_path / "second", shared / "lake"),
        "sink as lake": (shared / "sink", tmp_path / "other sink"),
    }
    lake, sink = roots[given]
    policy = policy_of(tmp_path, "policy", LENIENT, sink)
    before = files(shared)
    command = ["route", "--input", str(routed / "source"), "--lake", str(lake), *policy]
    assert main([*command, "--source", *source]) == 2
    assert "belongs to another lake" in capsys.readouterr().err
    assert files(shared) == before
    assert files(tmp_path) == {policy[1]}


@pytest.mark.slow
def test_another_lake_beside_leaves_the_objects_of_the_first(shared: Path, routed: Path) -> None:
    """Folders below a root that is not the lake's own are free."""
    policy = policy_of(shared, "second", STRICT, shared / "sink of the second")
    before = files(shared / "sink")
    second = Lake(shared / "second")
    summary = route_into(second, *policy, inputs=(str(routed / "source"),))
    assert counts(summary)["review"] == 3
    route_into(second, *policy, "--reprocess", "all", inputs=(str(routed / "source"),))
    assert files(shared / "sink") == before
    assert violations(shared / "lake") == []
    assert violations(second.root) == []


def assert_no_object_without_row(lake: Lake, *sinks: Path) -> None:
    named = {lake.root / row["object_uri"] for row in lake.rows()}
    stored = {path for sink in (lake.root, *sinks) for path in sink.rglob("*.dcm")}
    assert stored == named
    assert violations(lake.root) == []


SINK, MOVED, NONE = "sink", "moved sink", ""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("after_kill", [False, True], ids=["complete", "killed"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(NONE, SINK), (SINK, MOVED), (SINK, NONE), (SINK, SINK)],
    ids=["added", "moved", "removed", "kept"],
)
def test_a_changed_sink_leaves_no_object_without_a_row(
    route: Route,
    lake: Lake,
    routed: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
    before: str,
    after: str,
    after_kill: bool,
) -> None:
    """The run before ended, or was killed after it had placed objects and before it indexed them."""
    inputs = (str(routed / "source"),)
    sinks = [tmp_path / name for name in (before, after) if name]
    policies = [
        policy_of(tmp_path, f"policy {n}", STRICT, tmp_path / sink if sink else None)
        for n, sink in enumerate((before, after))
    ]
    if after_kill:
        interrupt(routed / "source", *policies[0])
        assert len(list(tmp_path.rglob("*.dcm"))) == 5
    else:
        route(*policies[0], inputs=inputs)
    summary = route(*policies[1], inputs=inputs)
    assert summary["complete"]
    assert counts(summary) == (
        {"review": 3, "duplicate": 1, "not_xray": 1, "quarantined": 1}
        if after_kill
        else {"unchanged": 6}
    )
    assert bool(summary["counts"]["recovered"]) == (after_kill and before == after)
    assert_no_object_without_row(lake, *sinks)
    for policy in policies:
        assert main(["verify", str(lake.root), "--deep", *policy]) == 0
