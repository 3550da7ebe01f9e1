"""Chains of index files: each row once, whoever writes, dies, comes late or tries again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.lake.test_resolve_duplicates import row as settled_row
from transforms.core.reasons import Status
from transforms.lake import append as append_module
from transforms.lake.append import seal_before
from transforms.lake.append_log import LogShard, Segment, last_segments, next_segment, parse
from transforms.lake.files import exists, put_bytes
from transforms.lake.index_files import list_index, shard_of
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import list_journal, write_journal
from transforms.lake.layout import Layout
from transforms.lake.recovery import JournalSweeper, recover
from transforms.lake.schema import IndexRow

pytestmark = pytest.mark.stream

ONE = LogShard(1, 0)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "lake"))


def row(source: str, uid: str, sha256: str = "a" * 64, **columns: object) -> IndexRow:
    return settled_row(source, sha256, sop_instance_uid=uid, **columns)


def rows_in(layout: Layout) -> list[dict]:
    data = ds.dataset(Path(layout.index), format="parquet", partitioning="hive")
    return data.to_table().to_pylist()


def sources(layout: Layout) -> list[str]:
    return sorted(r["source_uri"] for r in rows_in(layout))


def append_rows(layout: Layout, *rows: IndexRow, run_id: str = "r", chain: LogShard = ONE) -> int:
    replica = IndexReplica(layout)
    try:
        return len(append_module.append(layout, replica, run_id, chain, rows).rows)
    finally:
        replica.close()


def test_what_the_index_holds_is_dropped(layout: Layout) -> None:
    a, b = row("/in/a", uid="1.1"), row("/in/b", uid="1.2")
    assert append_rows(layout, a, b) == 2
    assert append_rows(layout, a, b) == 0
    assert append_rows(layout, a, row("/in/c", uid="1.3")) == 1
    assert sources(layout) == ["/in/a", "/in/b", "/in/c"]
    links = [parse(uri) for uri in list_index(layout)]
    assert [link.number for _, link in links] == [1, 2]


def test_rows_of_one_version_count_once_whichever_model_decided(layout: Layout) -> None:
    one = row("/in/a", uid="1.1", model_id="m1")
    other = replace(one, model_id="m2", destination="others")
    assert append_rows(layout, one, other) == 1
    assert append_rows(layout, other) == 0
    assert [r["model_id"] for r in rows_in(layout)] == ["m1"]


def test_later_rows_learn_of_earlier_ones(layout: Layout) -> None:
    append_rows(layout, row("/in/b", uid="1.1", sha256="a" * 64))
    append_rows(
        layout, row("/in/a", uid="1.1", sha256="a" * 64), row("/in/c", uid="1.1", sha256="c" * 64)
    )
    found = {r["source_uri"]: (r["status"], r["conflict"]) for r in rows_in(layout)}
    assert found["/in/a"] == (Status.DUPLICATE, True)
    assert found["/in/b"] == (Status.ROUTED, False)
    assert found["/in/c"] == (Status.ROUTED, True)


def test_many_writers_at_once_write_each_row_once(layout: Layout) -> None:
    """As an engine that takes a worker for dead and starts another one."""
    rows = [row(f"/in/{n:03d}", uid=f"1.{n}") for n in range(60)]
    catalogs = [IndexReplica(layout) for _ in range(6)]

    def write(number: int) -> int:
        done = 0
        for start in range(0, 60, 5):
            mine = rows[start : start + 5 + number]  # each attempt cuts its panes otherwise
            done += len(
                append_module.append(layout, catalogs[number], f"r{number}", ONE, mine).rows
            )
        return done

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(write, range(6)))
    assert sum(written) == 60
    assert sources(layout) == [r.source_uri for r in rows]
    numbers = [link.number for _, link in map(parse, list_index(layout))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_writer_that_was_overtaken_looks_again(layout: Layout, monkeypatch) -> None:
    """Between its look at the index and its file, another writer is first."""
    slow = IndexReplica(layout)
    refresh = slow.refresh
    overtaken = []

    def look_and_be_overtaken() -> None:
        refresh()
        if not overtaken:
            overtaken.append(append_rows(layout, row("/in/a", uid="1.1"), run_id="fast"))

    monkeypatch.setattr(slow, "refresh", look_and_be_overtaken)
    rows = [row("/in/a", uid="1.1"), row("/in/b", uid="1.2")]
    assert len(append_module.append(layout, slow, "slow", ONE, rows).rows) == 1
    assert sources(layout) == ["/in/a", "/in/b"]


def test_a_chain_goes_on_to_the_next_day_only_after_the_last_is_closed(
    layout: Layout, monkeypatch
) -> None:
    monkeypatch.setattr(append_module, "today", lambda: "2026-03-01")
    append_rows(layout, row("/in/a", uid="1.1"))
    monkeypatch.setattr(append_module, "today", lambda: "2026-03-02")
    append_rows(layout, row("/in/b", uid="1.2"))
    monkeypatch.setattr(append_module, "today", lambda: "2026-03-01")  # another worker's clock
    append_rows(layout, row("/in/c", uid="1.3"))
    names = [parse(uri)[1] for uri in list_index(layout)]
    assert names == [Segment(1, "2026-03-01"), Segment(2, "2026-03-01"), Segment(3, "2026-03-02"),
                     Segment(4, "2026-03-02")]  # fmt: skip
    by_day = {(r["source_uri"], str(r["ingest_date"])) for r in rows_in(layout)}
    assert by_day == {("/in/a", "2026-03-01"), ("/in/b", "2026-03-02"), ("/in/c", "2026-03-02")}


def test_a_day_that_was_closed_takes_no_more_rows(layout: Layout, monkeypatch) -> None:
    monkeypatch.setattr(append_module, "today", lambda: "2026-03-01")
    append_rows(layout, row("/in/a", uid="1.1"))
    seal_before(layout, "2026-03-02")
    seal_before(layout, "2026-03-02")
    append_rows(layout, row("/in/b", uid="1.2"))
    assert [parse(uri)[1] for uri in list_index(layout)] == [
        Segment(1, "2026-03-01"), Segment(2, "2026-03-01"), Segment(3, "2026-03-02")]  # fmt: skip


def test_names_and_chains() -> None:
    layout = Layout("/lake")
    uri = Segment(7, "2026-03-01").uri(layout, LogShard(4, 2))
    assert parse(uri) == (LogShard(4, 2), Segment(7, "2026-03-01"))
    assert parse("/lake/index/ingest_date=2026-03-01/part-00001-abc.parquet") is None
    assert last_segments([uri, Segment(9, "2026-03-02").uri(layout, LogShard(4, 2))]) == {
        LogShard(4, 2): Segment(9, "2026-03-02")
    }
    assert next_segment(None, closed=False, today="2026-12-31") == (Segment(1, "2026-12-31"), False)
    assert next_segment(Segment(3, "2026-12-31"), closed=True, today="2026-12-31")[0] == Segment(
        4, "2027-01-01"
    )


def place(layout: Layout, name: str, content: bytes = b"x", **columns: object) -> IndexRow:
    """A journaled row, and its object."""
    import hashlib

    sha256 = hashlib.sha256(content).hexdigest()
    placed = row(name, sha256=sha256, **columns)
    uid = placed.sop_instance_uid
    target = layout.object_uri(str(placed.destination), "1.2", "1.3", str(uid), sha256)
    placed = replace(placed, object_uri=target)
    write_journal(layout, [placed], "decided")
    put_bytes(target, content, scratch=layout.scratch())
    return placed


def test_what_a_killed_stream_placed_is_indexed_by_the_next(layout: Layout) -> None:
    a = place(layout, "/in/a", uid="1.1")
    gone = place(layout, "/in/b", uid="1.2")
    Path(str(gone.object_uri)).unlink()  # killed between journal and object
    replica = IndexReplica(layout)
    assert recover(layout, replica, "next", 4) == 1
    assert [(r["source_uri"], r["run_id"]) for r in rows_in(layout)] == [("/in/a", "next.1")]
    assert not list_journal(layout)
    shard = LogShard(4, shard_of(a.identity, 4))
    assert not append_module.append(layout, replica, "resumed", shard, [a]).rows, (
        "the savepoint brings it again"
    )


def test_an_object_that_was_decided_twice_and_is_named_by_no_row_goes(layout: Layout) -> None:
    first = place(layout, "/in/a", uid="1.1", destination="others", model_id="m1")
    second = place(layout, "/in/a", uid="1.1", destination="spine", model_id="m2")
    append_rows(layout, first)
    replica = IndexReplica(layout)
    JournalSweeper(layout, replica).remove_stale()
    assert exists(str(second.object_uri)), "rows under way may name it"
    assert len(list_journal(layout)) == 1
    recover(layout, replica, "next", 1)
    assert not exists(str(second.object_uri))
    assert exists(str(first.object_uri))
    assert len(rows_in(layout)) == 1


def test_the_journal_is_swept_of_what_is_indexed_alone(layout: Layout) -> None:
    a, _ = place(layout, "/in/a", uid="1.1"), place(layout, "/in/b", uid="1.2")
    append_rows(layout, a)
    assert JournalSweeper(layout, IndexReplica(layout)).remove_stale() == 1
    assert len(list_journal(layout)) == 1


def test_the_object_of_a_lake_that_was_moved_is_not_taken_for_a_stray(tmp_path: Path) -> None:
    old, new = Layout(str(tmp_path / "old")), Layout(str(tmp_path / "new"))
    a = place(old, "/in/a", uid="1.1")
    append_rows(old, a)
    Path(old.root).rename(new.root)
    again = place(new, "/in/b", uid="1.1")  # the same bytes from another source: the same object
    recover(new, IndexReplica(new), "next", 1)
    assert exists(str(again.object_uri))
    assert sorted(r["status"] for r in rows_in(new)) == [Status.DUPLICATE, Status.ROUTED]
