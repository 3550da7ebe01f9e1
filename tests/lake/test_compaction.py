"""Compaction: at every moment, and after any kill, a reader sees each row exactly once."""

from __future__ import annotations

import itertools
import shutil
import threading
from pathlib import Path

import duckdb
import pytest

from pipeline.cli import main
from tests.lake.rows import (
    append_rows,
    index_row,
    new_lake,
    replica_of,
    rows_in,
    set_clock,
    sources_in,
)
from tests.leftovers import abandon, kill_at
from tests.stores import Store
from transforms.lake import compaction
from transforms.lake import rewrite as rewrite_module
from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.compaction import compact
from transforms.lake.existing_rows import read_existing_rows
from transforms.lake.index_files import count_rows, list_index
from transforms.lake.layout import Layout
from transforms.storage.temporary import remove_abandoned

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
AFTER = "2026-03-04"
SOURCES = sorted(f"/in/{day}-{part}-{n}" for day in DAYS for part in range(2) for n in range(3))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of three days of six small files in two logs."""
    root = tmp_path_factory.mktemp("filled") / "lake"
    fill(new_lake(root))
    return root


@pytest.fixture
def layout(filled: Path, tmp_path: Path) -> Layout:
    """A copy of `filled`."""
    shutil.copytree(filled, tmp_path / "lake")
    return Layout(str(tmp_path / "lake"))


def fill(layout: Layout) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, replica_of(layout) as replica:
        for day in DAYS:
            set_clock(monkeypatch, day)
            for n, part in itertools.product(range(3), range(2)):
                uid = f"1.{DAYS.index(day)}.{part}.{n}"
                row = index_row(f"/in/{day}-{part}-{n}", sop_instance_uid=uid)
                assert append(layout, replica, LogShard(2, part), [row]).rows


def router_sources(layout: Layout) -> list[str]:
    """Return the sources that the router itself finds, by notes on rewrites."""
    return sorted(r.source_uri for uri in list_index(layout) for r in read_existing_rows(uri, None))


def with_rows(layout: Layout, day: str) -> list[str]:
    """Return the index files of a partition that have rows."""
    return [u for u in list_index(layout) if f"={day}/" in u and count_rows(u)]


@pytest.mark.slow
def test_the_days_before_are_merged_and_the_rows_stay(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows_in(layout)
    assert main(["compact", layout.root, "--before", DAYS[2]]) == 0
    assert f"{DAYS[0]}: 8 files merged, 6 rows" in capsys.readouterr().out  # two of them seals
    assert rows_in(layout) == before
    assert router_sources(layout) == sources_in(layout) == SOURCES
    query = f"select count(*), count(distinct source_uri) from '{layout.index}/**/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(18, 18)]
    (merged,) = with_rows(layout, DAYS[0])
    assert merged.rpartition("/")[2].startswith("part-")
    assert len(with_rows(layout, DAYS[2])) == 6
    assert not compact(layout, DAYS[2]), "nothing more to do"


@pytest.mark.slow
def test_a_stream_continues_after_its_day_was_compacted(layout: Layout) -> None:
    compact(layout, AFTER)
    late = index_row("/in/late", sop_instance_uid="1.9")
    known = index_row(SOURCES[0], sop_instance_uid="1.0.0.0")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_clock(monkeypatch, DAYS[2])  # the stream's clock is behind
        assert append_rows(layout, late, log=LogShard(2, 0)) == 1
    assert append_rows(layout, known, log=LogShard(2, 0)) == 0
    assert router_sources(layout) == sorted([*SOURCES, "/in/late"])
    (uri,) = with_rows(layout, AFTER)
    assert count_rows(uri) == 1


@pytest.mark.slow
def test_a_reader_at_any_moment_sees_each_row_once(layout: Layout) -> None:
    """On a file system; a reader whose listing was overtaken fails and lists again."""
    done, seen = threading.Event(), list[list[str]]()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(sources_in(layout))
            except FileNotFoundError:
                continue

    reader = threading.Thread(target=read)
    reader.start()
    compact(layout, AFTER)
    done.set()
    reader.join()
    assert all(found == SOURCES for found in seen)
    assert sources_in(layout) == SOURCES


STEPS = {
    "put_file": rewrite_module,
    "exchange": rewrite_module,
    "link_missing": rewrite_module,
    "write_intent": rewrite_module,
    "finish_rewrites": rewrite_module,
    "rewrite": compaction,
    "seal_partitions_before": compaction,
}
NOT_REACHED = {(True, "finish_rewrites")}
"""After an exchange of folders, nothing remains to be removed."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "notes"])
@pytest.mark.parametrize("day", [0, 1], ids=["first_day", "second_day"])
def test_a_kill_at_any_step_leaves_each_row_once(
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    exchange: bool,
    step: str,
    after: bool,
    day: int,
) -> None:
    """Without an exchange, as in object stores, plain readers may find rows twice until a repeat."""
    if not exchange:
        monkeypatch.setattr(rewrite_module, "exchange", lambda one, other: False)
    call = 0 if step == "seal_partitions_before" else day
    reached = kill_at(STEPS[step], step, call, after, lambda: compact(layout, AFTER))
    assert reached == ((exchange, step) not in NOT_REACHED)
    assert router_sources(layout) == SOURCES
    assert set(sources_in(layout)) == set(SOURCES)
    if exchange:
        assert sources_in(layout) == SOURCES
    abandon(Path(layout.scratch()))
    remove_abandoned(layout.scratch())
    compact(layout, AFTER)
    assert sources_in(layout) == router_sources(layout) == SOURCES
    assert not list(Path(layout.scratch()).iterdir())
    assert not list(Path(layout.root).glob(".rewrite/*"))
    assert all(len(with_rows(layout, day)) == 1 for day in DAYS)


@pytest.mark.slow
def test_logs_and_compaction_in_an_object_store(store: Store) -> None:
    layout = Layout(f"{store.root}/lake")
    fill(layout)
    compact(layout, DAYS[2])
    assert router_sources(layout) == SOURCES
    merged = [uri for uri in list_index(layout) if "/part-" in uri]
    assert [uri.partition("ingest_date=")[2][:10] for uri in merged] == list(DAYS[:2])
    known = index_row(SOURCES[0], sop_instance_uid="1.0.0.0")
    assert append_rows(layout, known, log=LogShard(2, 0)) == 0
    late = index_row("/in/late", sop_instance_uid="1.9")
    assert append_rows(layout, late, log=LogShard(2, 0)) == 1
    assert router_sources(layout) == sorted([*SOURCES, "/in/late"])


def test_a_damaged_file_stops_it_and_is_named(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = Path(list_index(layout)[0])
    victim.write_bytes(victim.read_bytes()[:50])
    files = sorted(Path(layout.index).rglob("*.parquet"))
    assert main(["compact", layout.root, "--before", DAYS[2]]) == 1
    assert str(victim) in capsys.readouterr().err
    kept = [path for path in files if path.exists()]
    assert kept == files, "nothing is removed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--before", "tomorrow"], "write a date as YYYY-MM-DD"),
        (["--before", "2999-01-01"], "streams append to today's partition"),
    ],
)
def test_wrong_usage(
    layout: Layout, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["compact", layout.root, *options]) == 2
    assert message in capsys.readouterr().err
