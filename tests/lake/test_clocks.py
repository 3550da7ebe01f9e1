"""One wrong clock puts some rows into a wrong partition, and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.lake.rows import (
    ONE,
    append_rows,
    new_lake,
    place,
    rows_in,
    set_clock,
    sources_in,
)
from transforms.lake.append import log_ends
from transforms.lake.append_log import LogShard
from transforms.lake.compaction import compact
from transforms.lake.index_files import list_index
from transforms.lake.journal import list_journal, remove_journal_files
from transforms.lake.layout import Layout
from transforms.lake.run_counts import count_stream
from transforms.lake.verify import verify_lake

TODAY, TOMORROW, LATER = "2026-03-01", "2026-03-02", "2026-03-05"
WRONG = pytest.mark.parametrize("wrong", ["2999-01-01", "2026-03-04", "1970-01-01"])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_lake(tmp_path / "lake")


def append_on(layout: Layout, day: str, name: str, log: LogShard = ONE) -> None:
    """Append one row, whose object is placed, when the writer's clock shows a day."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_clock(monkeypatch, day)
        row = place(layout, f"/in/{name}", name.encode(), sop_instance_uid=f"1.{ord(name)}")
        assert append_rows(layout, row, log=log) == 1
        remove_journal_files(layout, list_journal(layout))


def partitions(layout: Layout) -> dict[str, str]:
    return {row["source_uri"][4:]: str(row["ingest_date"]) for row in rows_in(layout)}


@pytest.mark.slow
@WRONG
def test_one_wrong_clock_does_not_pin_the_log(layout: Layout, wrong: str) -> None:
    for day, name in ((TODAY, "a"), (wrong, "b"), (TODAY, "c"), (TOMORROW, "d")):
        append_on(layout, day, name)
    assert partitions(layout) == {"a": TODAY, "b": wrong, "c": TODAY, "d": TOMORROW}
    assert verify_lake(layout, deep=True).violations == []


@WRONG
def test_the_first_segment_may_be_of_a_wrong_clock(layout: Layout, wrong: str) -> None:
    append_on(layout, wrong, "a")
    append_on(layout, TODAY, "b")
    assert partitions(layout) == {"a": wrong, "b": TODAY}


@pytest.mark.slow
@WRONG
def test_such_a_lake_is_compacted(layout: Layout, wrong: str) -> None:
    for number, name in enumerate("abcdefgh"):
        append_on(layout, wrong if number == 3 else TODAY, name, LogShard(2, number % 2))
    append_on(layout, TOMORROW, "i", LogShard(2, 0))
    compact(layout, LATER)
    assert not compact(layout, LATER)
    assert len(partitions(layout)) == 9
    assert verify_lake(layout, deep=True).violations == []
    in_days = Counter(Path(uri).parent.name for uri in list_index(layout) if "/part-" in uri)
    assert in_days[f"ingest_date={TODAY}"] == 1
    assert {end.partition for end in log_ends(layout).values()} <= {LATER, wrong}
    append_on(layout, LATER, "j", LogShard(2, 1))
    assert partitions(layout)["j"] == LATER


def test_one_day_of_skew_between_workers_adds_no_seals(layout: Layout) -> None:
    """Around midnight, and with clocks that differ a little."""
    for number, name in enumerate("abcdef"):
        append_on(layout, TOMORROW if number % 2 == 0 else TODAY, name)
    assert set(partitions(layout).values()) == {TOMORROW}
    assert len(list_index(layout)) == 6


@WRONG
def test_a_stream_is_counted_whatever_its_clocks_show(layout: Layout, wrong: str) -> None:
    append_on(layout, TODAY, "a")
    before = frozenset(list_index(layout))
    for day, name in ((wrong, "b"), (TODAY, "c")):
        append_on(layout, day, name)
    counts = count_stream(layout, "r", before)
    assert counts.counts["routed"] == counts.counts["discovered"] == 2
    assert sources_in(layout) == ["/in/a", "/in/b", "/in/c"]
