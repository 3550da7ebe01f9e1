"""Whatever a lake relies on is on the disk before it: contents, names, folders and removals."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, route_into
from tests.disk_recorder import DiskRecorder, recording
from tests.lake.rows import FINGERPRINT, index_row, new_lake
from transforms.lake.files import put_bytes
from transforms.lake.journal import write_journal
from transforms.lake.layout import Layout
from transforms.lake.rewrite_intents import RewriteIntent, finish_rewrites, write_intent
from transforms.storage import folders


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process know no more than a new one of what is on the disk."""
    monkeypatch.setattr(folders, "_SYNCED", {})


def assert_durable(disk: DiskRecorder) -> None:
    assert disk.folder_syncs
    assert not disk.problems
    assert not disk.volatile, "entries that a power loss would take"


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["copy", "link"])
def test_a_run_into_a_new_folder(routed: Path, tmp_path: Path, placement: str) -> None:
    lake = Lake(tmp_path / "a" / "b" / "lake")
    with recording(lake.root) as disk:
        route_into(lake, "--placement", placement, inputs=(str(routed / "source"),))
    assert_durable(disk)


@pytest.mark.slow
def test_decisions_that_are_replaced_and_a_compaction(routed: Path, copied: Lake) -> None:
    source, strict = str(routed / "source"), str(routed / "strict.yaml")
    with recording(copied.root) as disk:
        route_into(copied, "--policy", strict, "--reprocess", "policy", inputs=(source,))
    assert list(copied.root.glob("history/**/*.parquet"))
    assert_durable(disk)
    assert not disk.removed, "objects that would reappear"


@pytest.mark.slow
def test_compaction(routed: Path, lake: Lake, route: Route) -> None:
    day = ("--ingest_date", "2026-03-01")
    for name in ("0.dcm", "1.dcm", "ct.dcm"):
        route(*day, inputs=(str(routed / "source" / name),))
    with recording(lake.root) as disk:
        assert main(["compact", str(lake.root)]) == 0
    assert list(lake.root.glob("index/*/part-*"))
    assert_durable(disk)


@pytest.mark.slow
def test_recovery(routed: Path, lake: Lake) -> None:
    layout = new_lake(lake.root)
    write_journal(layout, [index_row("/in/interrupted")], FINGERPRINT)
    with recording(lake.root) as disk:
        route_into(lake, inputs=(str(routed / "source"),))
    assert_durable(disk)


def test_replaced_files_are_gone_before_the_intent(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    day = layout.partition("2026-01-01")
    for name in ("old.parquet", "merged.parquet"):
        put_bytes(f"{day}/{name}", name.encode(), scratch=layout.scratch())
    intent = RewriteIntent("2026-01-01", "merged.parquet", ("old.parquet",))
    write_intent(layout, "intent", intent)
    with recording(Path(layout.root)) as disk:
        finish_rewrites(layout)
    assert disk.folder_syncs == 1


def test_a_folder_that_a_killed_process_made_is_synced_too(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    target = lake / "labels" / "person" / "a.json"
    with recording(lake) as disk:
        target.parent.mkdir(parents=True)
        put_bytes(str(target), b"x", scratch=str(lake / ".tmp"))
    assert_durable(disk)


def test_a_file_that_a_killed_process_named_is_synced_too(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    target, scratch = lake / "runs" / "a.json", str(lake / ".tmp")
    put_bytes(str(target), b"x", scratch=scratch)
    with recording(lake) as disk:
        disk.volatile.add(target)
        assert not put_bytes(str(target), b"x", scratch=scratch)
    assert_durable(disk)


def test_a_folder_is_synced_once(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "lake"))
    with recording(tmp_path / "lake") as disk:
        for number in range(10):
            put_bytes(f"{layout.root}/labels/{number}", b"x", scratch=layout.scratch())
        ancestors = len(Path(layout.root, "labels").parents)
        assert disk.folder_syncs <= 10 + ancestors + 1
