"""Compaction: at every moment, and after any kill, a reader sees each row exactly once."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest

from pipeline.cli import main
from tests.lake.test_stream_index import append_rows, row
from tests.leftovers import abandon
from transforms.lake import append as append_module
from transforms.lake import compaction
from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.compaction import compact
from transforms.lake.index_files import list_index, read_existing
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.storage.temporary import remove_abandoned

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
SOURCES = [f"/in/{day}-{part}-{n}" for day in DAYS for part in range(2) for n in range(5)]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Three days of ten small files in two chains."""
    layout = Layout(str(tmp_path / "lake"))
    fill(layout, monkeypatch)
    return layout


def fill(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = IndexReplica(layout)
    for day in DAYS:
        monkeypatch.setattr(append_module, "today", lambda day=day: day)
        for n, part in itertools.product(range(5), range(2)):
            uid = f"1.{DAYS.index(day)}.{part}.{n}"
            one = row(f"/in/{day}-{part}-{n}", uid=uid)
            assert append(layout, replica, "r", LogShard(2, part), [one]).rows
    replica.close()


def plain(layout: Layout) -> list[str]:
    """What a reader finds that knows nothing of compaction."""
    data = ds.dataset(Path(layout.index), format="parquet", partitioning="hive")
    return sorted(data.to_table(columns=["source_uri"])["source_uri"].to_pylist())


def own(layout: Layout) -> list[str]:
    """What the router itself finds."""
    return sorted(r.source_uri for uri in list_index(layout) for r in read_existing(uri, None))


def test_the_days_before_are_merged_and_the_rows_stay(layout: Layout, capsys) -> None:
    before = plain(layout)
    assert main(["compact", layout.root, "--before", DAYS[2]]) == 0
    assert f"{DAYS[0]}: 10 files, 10 rows" in capsys.readouterr().out
    assert plain(layout) == own(layout) == before == sorted(SOURCES)
    query = f"select count(*), count(distinct source_uri) from '{layout.index}/**/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(30, 30)]
    with_rows = [u for u in list_index(layout) if compaction.number_of_rows(u)]
    assert len([u for u in with_rows if DAYS[0] in u]) == 1
    assert len([u for u in with_rows if DAYS[2] in u]) == 10
    assert not compact(layout, DAYS[2]), "nothing more to do"


def test_a_stream_goes_on_after_its_day_was_compacted(layout: Layout) -> None:
    compact(layout, "2026-03-04")
    assert append_rows(layout, row("/in/late", uid="1.9"), chain=LogShard(2, 0)) == 1
    assert append_rows(layout, row(SOURCES[0], uid="1.0.0.0"), chain=LogShard(2, 0)) == 0
    assert own(layout) == sorted([*SOURCES, "/in/late"])
    (late,) = [u for u in list_index(layout) if "2026-03-04" in u]
    assert compaction.number_of_rows(late) == 1


def test_a_reader_at_any_moment_sees_each_row_once(layout: Layout) -> None:
    """On a file system; a reader whose listing was overtaken fails and lists again."""
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            try:
                assert plain(layout) == sorted(SOURCES)
            except FileNotFoundError:
                continue
            seen.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    compact(layout, "2026-03-04")
    done.set()
    reader.join()
    assert plain(layout) == sorted(SOURCES)


STEPS = ("put_file", "put_bytes", "_exchanged", "_complete", "seal_before", "_merge")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_leaves_each_row_once(
    layout: Layout, monkeypatch, exchange: bool, step: str, after: bool
) -> None:
    """Without an exchange, as in object stores, plain readers may find rows twice until it goes on."""
    real = compaction._exchanged if exchange else (lambda one, other: False)
    monkeypatch.setattr(compaction, "_exchanged", real)
    called = getattr(compaction, step)

    def killed(*args: object, **kwargs: object) -> None:
        if after:
            called(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(compaction, step, killed)
        try:
            compact(layout, "2026-03-04")
        except Killed:
            pass
        else:
            assert step == "put_bytes" and exchange, "the step was not reached"
    assert own(layout) == sorted(SOURCES)
    assert set(plain(layout)) == set(SOURCES)
    if exchange:
        assert plain(layout) == sorted(SOURCES)
    abandon(Path(layout.scratch()))
    remove_abandoned(layout.scratch())
    compact(layout, "2026-03-04")
    assert plain(layout) == own(layout) == sorted(SOURCES)
    assert not list(Path(layout.root, ".tmp").iterdir())
    assert not list(Path(layout.root).glob(".compaction/*"))


def test_chains_and_compaction_in_an_object_store(store, monkeypatch) -> None:
    layout = Layout(f"{store.root}/lake")
    fill(layout, monkeypatch)
    compact(layout, DAYS[2])
    assert own(layout) == sorted(SOURCES)
    merged = [uri for uri in list_index(layout) if "/compact-" in uri]
    assert [uri.partition("ingest_date=")[2][:10] for uri in merged] == list(DAYS[:2])
    assert append_rows(layout, row(SOURCES[0], uid="1.0.0.0"), chain=LogShard(2, 0)) == 0
    assert append_rows(layout, row("/in/late", uid="1.9"), chain=LogShard(2, 0)) == 1


def test_a_damaged_file_stops_it_and_is_named(layout: Layout, capsys) -> None:
    victim = Path(list_index(layout)[0])
    victim.write_bytes(victim.read_bytes()[:50])
    assert main(["compact", layout.root, "--before", DAYS[2]]) == 1
    assert str(victim) in capsys.readouterr().err


@pytest.mark.parametrize(("options", "says"), [
    (["--before", "tomorrow"], "write a date as YYYY-MM-DD"),
    (["--before", "2999-01-01"], "streams write into today's partition"),
])  # fmt: skip
def test_wrong_usage(layout: Layout, capsys, options: list[str], says: str) -> None:
    assert main(["compact", layout.root, *options]) == 2
    assert says in capsys.readouterr().err
