"""The append log: each row once, whoever writes, dies, comes late or tries again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.graphs import config_of
from tests.lake.rows import (
    FINGERPRINT,
    ONE,
    append_rows,
    index_row,
    place,
    replica_of,
    rows_in,
    set_clock,
    sources_in,
)
from transforms.config.route_config import ConfigError
from transforms.core.reasons import Status
from transforms.lake.append import AppendResult, append, seal_partitions_before
from transforms.lake.append_log import (
    MAX_SHARDS,
    LogEnd,
    LogShard,
    Segment,
    last_segments,
    next_segment,
    parse_segment,
    partition_for,
)
from transforms.lake.files import exists
from transforms.lake.index_files import (
    NEXT_PARTITION_KEY,
    count_rows,
    list_index,
    read_metadata,
    shard_of,
)
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.recovery import prepare_recovery, recover, sweep_journal

pytestmark = pytest.mark.stream


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "lake"))


def segments(layout: Layout) -> list[Segment]:
    """Return the segments of all logs, in order of number."""
    return sorted(parsed[1] for parsed in map(parse_segment, list_index(layout)) if parsed)


def test_existing_rows_are_dropped(layout: Layout) -> None:
    a, b = index_row("/in/a", sop_instance_uid="1.1"), index_row("/in/b", sop_instance_uid="1.2")
    assert append_rows(layout, a, b) == 2
    assert append_rows(layout, a, b) == 0
    assert append_rows(layout, a, index_row("/in/c", sop_instance_uid="1.3")) == 1
    assert sources_in(layout) == ["/in/a", "/in/b", "/in/c"]
    assert [segment.number for segment in segments(layout)] == [1, 2]


def test_the_result_has_the_rows_as_written_and_counts_existing_ones(layout: Layout) -> None:
    a, b = index_row("/in/a", sop_instance_uid="1.1"), index_row("/in/b", sop_instance_uid="1.2")
    append_rows(layout, a)
    with replica_of(layout) as replica:
        appended = append(layout, replica, ONE, [a, b])
        assert append(layout, replica, ONE, [a, b]) == AppendResult([], existing=2)
    assert appended.existing == 1
    (written,) = appended.rows
    assert written.source_uri == "/in/b"
    assert written.run_id == "r.2", "the run that decided it, and the segment"
    assert [row["run_id"] for row in rows_in(layout)] == ["r.1", "r.2"]


def test_a_version_has_one_row_whichever_model_decided(layout: Layout) -> None:
    one = index_row("/in/a", sop_instance_uid="1.1", model_id="m1")
    other = replace(one, model_id="m2", destination="others")
    assert append_rows(layout, one, other) == 1
    assert append_rows(layout, other) == 0
    assert [r["model_id"] for r in rows_in(layout)] == ["m1"]


def test_rows_of_other_versions_are_not_dropped(layout: Layout) -> None:
    one = index_row("/in/a", "a" * 64, sop_instance_uid="1.1")
    changed = index_row("/in/a", "b" * 64, sop_instance_uid="1.1", source_version="2-2")
    assert append_rows(layout, one) == append_rows(layout, changed) == 1
    assert [r["conflict"] for r in rows_in(layout)] == [False, True]


def test_duplicates_and_conflicts_are_found_among_existing_rows(layout: Layout) -> None:
    uid = {"sop_instance_uid": "1.1"}
    append_rows(layout, index_row("/in/b", "a" * 64, **uid))
    append_rows(layout, index_row("/in/a", "a" * 64, **uid), index_row("/in/c", "c" * 64, **uid))
    found = {r["source_uri"]: (r["status"], r["conflict"]) for r in rows_in(layout)}
    assert found["/in/a"] == (Status.DUPLICATE, True)
    assert found["/in/b"] == (Status.ROUTED, False)
    assert found["/in/c"] == (Status.ROUTED, True)


@pytest.mark.slow
def test_concurrent_writers_write_each_row_once(layout: Layout) -> None:
    """An engine may take a worker for dead and start another one."""
    rows = [index_row(f"/in/{n:03d}", sop_instance_uid=f"1.{n}") for n in range(60)]
    replicas = [IndexReplica(layout) for _ in range(6)]

    def write(number: int) -> int:
        done = 0
        for start in range(0, 60, 5):
            some = rows[start : start + 5 + number]  # an engine may cut each attempt differently
            done += len(append(layout, replicas[number], ONE, some).rows)
        return done

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(write, range(6)))
    for replica in replicas:
        replica.close()
    assert sum(written) == 60
    assert sources_in(layout) == [r.source_uri for r in rows]
    numbers = [segment.number for segment in segments(layout)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_replica_is_loaded_while_others_write_and_given_up_when_it_is_closed(
    layout: Layout,
) -> None:
    a, b = index_row("/in/a", sop_instance_uid="1.1"), index_row("/in/b", sop_instance_uid="1.2")
    append_rows(layout, a)
    with replica_of(layout) as replica:
        replica.preload()
        append_rows(layout, b)
        replica.reload_tombstones()
        replica.refresh()
        assert replica.existing([a.version_key, b.version_key]) == {a.version_key, b.version_key}
        assert {row.source_uri for row in replica.rows_of(["1.1", "1.2"])} == {"/in/a", "/in/b"}
        assert list(map(replica.count_rows, list_index(layout))) == [1, 1]
    closed = IndexReplica(layout)
    closed.preload()
    closed.close()
    (thread,) = closed._preloading.values()
    thread.join(60)
    assert not thread.is_alive()
    assert not closed._folder.exists()


def test_a_writer_that_was_overtaken_reads_the_index_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer is first, between a writer's refresh and its segment."""
    with replica_of(layout) as slow:
        refresh = slow.refresh
        overtaken: list[int] = []

        def refresh_and_be_overtaken() -> None:
            refresh()
            if not overtaken:
                overtaken.append(append_rows(layout, index_row("/in/a", sop_instance_uid="1.1")))

        monkeypatch.setattr(slow, "refresh", refresh_and_be_overtaken)
        rows = [
            index_row("/in/a", sop_instance_uid="1.1"),
            index_row("/in/b", sop_instance_uid="1.2"),
        ]
        assert len(append(layout, slow, ONE, rows).rows) == 1
    assert sources_in(layout) == ["/in/a", "/in/b"]


def test_a_log_moves_to_the_next_day_by_a_seal(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, "2026-03-01")
    append_rows(layout, index_row("/in/a", sop_instance_uid="1.1"))
    set_clock(monkeypatch, "2026-03-02")
    append_rows(layout, index_row("/in/b", sop_instance_uid="1.2"))
    set_clock(monkeypatch, "2026-03-01")  # the clock of another worker
    append_rows(layout, index_row("/in/c", sop_instance_uid="1.3"))
    assert segments(layout) == [
        Segment(1, "2026-03-01"),
        Segment(2, "2026-03-01"),
        Segment(3, "2026-03-02"),
        Segment(4, "2026-03-02"),
    ]
    seal = Segment(2, "2026-03-01").uri(layout, ONE)
    assert count_rows(seal) == 0
    assert read_metadata(seal)[NEXT_PARTITION_KEY] == b"2026-03-02"
    by_day = {(r["source_uri"], str(r["ingest_date"])) for r in rows_in(layout)}
    assert by_day == {("/in/a", "2026-03-01"), ("/in/b", "2026-03-02"), ("/in/c", "2026-03-02")}


def test_a_sealed_partition_takes_no_more_rows(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, "2026-03-01")
    append_rows(layout, index_row("/in/a", sop_instance_uid="1.1"))
    seal_partitions_before(layout, "2026-03-02")
    seal_partitions_before(layout, "2026-03-02")
    append_rows(layout, index_row("/in/b", sop_instance_uid="1.2"))
    assert segments(layout) == [
        Segment(1, "2026-03-01"),
        Segment(2, "2026-03-01"),
        Segment(3, "2026-03-02"),
    ]


def test_names_of_segments() -> None:
    layout, log = Layout("/lake"), LogShard(4, 2)
    uri = Segment(7, "2026-03-01").uri(layout, log)
    assert uri == "/lake/index/ingest_date=2026-03-01/log-004-002-000000007.parquet"
    assert parse_segment(uri) == (log, Segment(7, "2026-03-01"))
    for other in ("part-00001-abc", "stream-004-002-000000007", "log-004-002-7", "log-0a4-002-1"):
        assert parse_segment(f"/lake/index/ingest_date=2026-03-01/{other}.parquet") is None
    later = Segment(9, "2026-02-01")
    assert last_segments([uri, later.uri(layout, log), f"{layout.index}/other.parquet"]) == {
        log: later
    }, "a log may go back to an earlier partition"


def test_a_number_of_shards_that_names_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="--index_shards"):
        replace(config_of(), index_shards=MAX_SHARDS + 1).check()
    log = LogShard(MAX_SHARDS, MAX_SHARDS - 1)
    assert parse_segment(Segment(1, "2026-03-01").uri(Layout("/lake"), log))


def test_the_next_segment_is_a_seal_where_the_log_is_in_another_partition() -> None:
    assert next_segment(LogEnd(), "2026-12-31") == (Segment(1, "2026-12-31"), None)
    rows = LogEnd(Segment(3, "2026-12-31"))
    assert next_segment(rows, "2026-12-31") == (Segment(4, "2026-12-31"), None)
    assert next_segment(rows, "2027-01-01") == (Segment(4, "2026-12-31"), "2027-01-01")
    sealed = LogEnd(Segment(4, "2026-12-31"), "2027-01-01")
    assert next_segment(sealed, "2027-01-01") == (Segment(5, "2027-01-01"), None)
    assert next_segment(sealed, "2026-12-31") == (Segment(5, "2027-01-01"), "2026-12-31")


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (None, "2026-12-31"),
        ("2026-12-31", "2026-12-31"),
        ("2026-12-30", "2026-12-31"),
        ("2027-01-01", "2027-01-01"),  # another worker's clock is ahead, or it is midnight
        ("2027-01-02", "2026-12-31"),
        ("2999-01-01", "2026-12-31"),
    ],
)
def test_the_partition_follows_the_clock_but_for_a_day_of_skew(
    current: str | None, expected: str
) -> None:
    end = LogEnd() if current is None else LogEnd(Segment(1, current))
    assert partition_for(end, "2026-12-31") == expected
    if current is not None:
        assert partition_for(LogEnd(Segment(1, "2020-01-01"), current), "2026-12-31") == expected


def test_objects_that_a_killed_stream_placed_are_recovered(layout: Layout) -> None:
    a = place(layout, "/in/a", sop_instance_uid="1.1")
    gone = place(layout, "/in/b", sop_instance_uid="1.2")
    Path(layout.absolute(str(gone.object_uri))).unlink()  # killed between journal and object
    with replica_of(layout) as replica:
        assert recover(layout, "second", 4, replica) == 1
        assert [(r["source_uri"], r["run_id"]) for r in rows_in(layout)] == [("/in/a", "second.1")]
        assert not list_journal(layout)
        shard = LogShard(4, shard_of(a.identity, 4))
        assert not append(layout, replica, shard, [a]).rows, "the savepoint brings it once more"


def test_a_batch_run_recovers_what_it_would_decide_the_same_way(layout: Layout) -> None:
    mine = place(layout, "/in/a", sop_instance_uid="1.1")
    indexed = place(layout, "/in/b", sop_instance_uid="1.2")
    append_rows(layout, indexed)
    prepare_recovery(layout, "second", FINGERPRINT)
    kept = [entry.row for uri in list_journal(layout) for entry in read_journal(uri, layout)]
    assert [row.source_uri for row in kept] == ["/in/a"]
    prepare_recovery(layout, "third", "another")
    assert not list_journal(layout)
    assert not exists(layout.absolute(str(mine.object_uri))), "it is decided again"
    assert exists(layout.absolute(str(indexed.object_uri)))


def test_an_object_that_no_row_names_is_removed_by_recovery_alone(layout: Layout) -> None:
    first = place(layout, "/in/a", destination="others", model_id="m1")
    second = place(layout, "/in/a", destination="spine", model_id="m2")
    append_rows(layout, first)
    with replica_of(layout) as replica:
        sweep_journal(layout, replica)
        assert exists(layout.absolute(str(second.object_uri))), "a row in flight may name it"
        assert len(list_journal(layout)) == 1
        recover(layout, "second", 1, replica)
    assert not exists(layout.absolute(str(second.object_uri)))
    assert exists(layout.absolute(str(first.object_uri)))
    assert len(rows_in(layout)) == 1


def test_only_journal_files_whose_rows_are_indexed_are_swept(layout: Layout) -> None:
    a = place(layout, "/in/a", sop_instance_uid="1.1")
    place(layout, "/in/b", sop_instance_uid="1.2")
    append_rows(layout, a)
    with replica_of(layout) as replica:
        assert sweep_journal(layout, replica) == 1
    assert len(list_journal(layout)) == 1


def test_the_object_of_a_moved_lake_is_not_an_orphan(tmp_path: Path) -> None:
    old, new = Layout(str(tmp_path / "old")), Layout(str(tmp_path / "new"))
    a = place(old, "/in/a", sop_instance_uid="1.1")
    append_rows(old, a)
    Path(old.root).rename(new.root)
    again = place(new, "/in/b", sop_instance_uid="1.1")  # the same bytes from another source
    with replica_of(new) as replica:
        recover(new, "second", 1, replica)
    assert exists(new.absolute(str(again.object_uri)))
    assert [r["status"] for r in rows_in(new)] == [Status.ROUTED, Status.DUPLICATE]
