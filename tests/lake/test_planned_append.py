"""A batch run appends right after the log ends that it found; a run that was overtaken adds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lake.rows import ONE, append_rows, index_row, replica_of, rows_in, set_clock, sources_in
from transforms.lake import append as append_module
from transforms.lake.append import (
    MAX_VIEW_AGE_S,
    ConcurrentWriteError,
    append,
    append_after,
    index_at_start,
    log_ends,
)
from transforms.lake.append_log import LogEnd, Segment
from transforms.lake.compaction import compact
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.schema import IndexRow, to_table

DAY, NEXT_DAY, LATER = "2026-03-01", "2026-03-02", "2026-03-03"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "lake"))


def rows(run_id: str, *sources: str, ingested_at: int = 0) -> list[IndexRow]:
    return [
        replace(
            index_row(source, sop_instance_uid=f"1.{n}"), run_id=run_id, ingested_at=ingested_at
        )
        for n, source in enumerate(sources)
    ]


def write(
    layout: Layout,
    planned: LogEnd,
    run_id: str,
    *sources: str,
    ingest_date: str = DAY,
    ingested_at: int = 0,
) -> str:
    """Append rows of a run as planned; return the URI of the segment."""
    table = to_table(rows(run_id, *sources, ingested_at=ingested_at))
    return append_after(layout, ONE, planned, table, run_id=run_id, ingest_date=ingest_date)


def run(layout: Layout, run_id: str, *sources: str, ingest_date: str = DAY) -> str:
    """Plan and append as a run that nothing interrupts."""
    return write(layout, end_of(layout), run_id, *sources, ingest_date=ingest_date)


def end_of(layout: Layout) -> LogEnd:
    return log_ends(layout).get(ONE, LogEnd())


def contents(layout: Layout) -> dict[str, bytes]:
    return {uri: Path(uri).read_bytes() for uri in list_index(layout)}


def test_runs_extend_the_log(layout: Layout) -> None:
    run(layout, "r1", "/in/a")
    run(layout, "r2", "/in/b")
    assert end_of(layout) == LogEnd(Segment(2, DAY))
    assert [(r["source_uri"], r["run_id"]) for r in rows_in(layout)] == [
        ("/in/a", "r1"),
        ("/in/b", "r2"),
    ]


def test_a_run_whose_plan_is_older_than_the_log_is_refused(layout: Layout) -> None:
    planned = end_of(layout)
    run(layout, "successor", "/in/a")
    before = contents(layout)
    with pytest.raises(ConcurrentWriteError, match="run the same command again"):
        write(layout, planned, "suspended", "/in/a", "/in/b")
    assert contents(layout) == before


def test_a_run_is_refused_where_a_stream_has_appended(layout: Layout) -> None:
    run(layout, "r1", "/in/a")
    planned = end_of(layout)
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_clock(monkeypatch, DAY)
        append_rows(layout, index_row("/in/b", sop_instance_uid="1.9"))
    with pytest.raises(ConcurrentWriteError):
        write(layout, planned, "r2", "/in/b")
    assert sources_in(layout) == ["/in/a", "/in/b"]


@pytest.mark.parametrize("first", [True, False], ids=["first segment", "later segment"])
def test_a_suspended_run_is_refused_although_its_number_is_free_again(
    layout: Layout, first: bool
) -> None:
    """The segment of its successor has been merged away meanwhile."""
    if not first:
        run(layout, "r1", "/in/0")
    planned = end_of(layout)
    for number in range(3):
        run(layout, f"successor {number}", f"/in/{'abc'[number]}")
    compact(layout, NEXT_DAY)
    number = 1 if planned.last is None else planned.last.number + 1
    assert not Path(Segment(number, DAY).uri(layout, ONE)).exists()
    before = contents(layout)
    with pytest.raises(ConcurrentWriteError):
        write(layout, planned, "suspended", "/in/a")
    assert contents(layout) == before


def test_a_retry_keeps_what_the_first_attempt_wrote(layout: Layout) -> None:
    planned = end_of(layout)
    uri = write(layout, planned, "r1", "/in/a")
    before = contents(layout)
    assert write(layout, planned, "r1", "/in/a", ingested_at=1) == uri, "times of a second fetch"
    assert contents(layout) == before


def test_a_retry_continues_after_the_seal_of_the_first_attempt(layout: Layout) -> None:
    run(layout, "r1", "/in/a")
    planned = end_of(layout)
    uri = write(layout, planned, "r2", "/in/b", ingest_date=NEXT_DAY)
    Path(uri).unlink()  # killed between seal and segment
    assert write(layout, planned, "r2", "/in/b", ingest_date=NEXT_DAY) == uri
    assert [str(r["ingest_date"]) for r in rows_in(layout)] == [DAY, NEXT_DAY]
    run(layout, "r3", "/in/c", ingest_date=DAY)
    assert [str(r["ingest_date"]) for r in rows_in(layout)] == [DAY, NEXT_DAY, DAY]


def test_a_run_is_refused_where_another_has_sealed_the_log_to_another_partition(
    layout: Layout,
) -> None:
    run(layout, "r1", "/in/a")
    planned = end_of(layout)
    run(layout, "r2", "/in/b", ingest_date=LATER)
    with pytest.raises(ConcurrentWriteError):
        write(layout, planned, "suspended", "/in/b", ingest_date=NEXT_DAY)
    assert sources_in(layout) == ["/in/a", "/in/b"]


def test_an_engine_that_runs_a_job_again_finds_the_index_as_it_was_before(layout: Layout) -> None:
    assert index_at_start(layout, "r1") == ([], {})
    run(layout, "r1", "/in/a")
    assert index_at_start(layout, "r1") == ([], {})
    files, ends = index_at_start(layout, "r2")
    assert files == list_index(layout)
    assert ends == log_ends(layout) == {ONE: LogEnd(Segment(1, DAY))}
    run(layout, "r2", "/in/b", ingest_date=NEXT_DAY)
    files, ends = index_at_start(layout, "r2")
    assert [Path(uri).name for uri in files] == [
        "log-001-000-000000001.parquet",
        "log-001-000-000000002.parquet",
    ]
    assert ends == {ONE: LogEnd(Segment(2, DAY), NEXT_DAY)}
    assert write(layout, ends[ONE], "r2", "/in/b", ingest_date=NEXT_DAY)
    assert sources_in(layout) == ["/in/a", "/in/b"]


def test_a_stream_that_was_suspended_looks_at_the_index_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows, and the number that it is about to write, were written and merged by its successor."""
    set_clock(monkeypatch, DAY)
    a, b, c = (index_row(f"/in/{n}", sop_instance_uid=f"1.{n}") for n in "abc")
    append_rows(layout, c)
    clock = 0.0

    def be_suspended(*args: Sequence[Any]) -> Any:
        nonlocal clock
        monkeypatch.setattr(append_module, "resolve_all", resolve_all)
        append_rows(layout, a)
        append_rows(layout, b)
        set_clock(monkeypatch, NEXT_DAY)
        compact(layout, NEXT_DAY)
        set_clock(monkeypatch, DAY)
        clock += MAX_VIEW_AGE_S + 1
        return resolve_all(*args)

    monkeypatch.setattr(append_module, "boottime", lambda: clock)
    monkeypatch.setattr(append_module, "resolve_all", be_suspended)
    with replica_of(layout) as replica:
        assert not append(layout, replica, ONE, [a, b]).rows
    assert sources_in(layout) == ["/in/a", "/in/b", "/in/c"]
