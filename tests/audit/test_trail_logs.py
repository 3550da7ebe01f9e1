"""The audit trail reports the rows of append logs once, however they are numbered or rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.audit.trails import audited, change, instances, row_of
from tests.lake.rows import append_rows, new_lake
from transforms.core.run_id import new_run_id
from transforms.lake.append import append_after, log_ends
from transforms.lake.append_log import LogEnd, LogShard
from transforms.lake.compaction import compact
from transforms.lake.index_files import shard_of
from transforms.lake.schema import IndexRow, to_table


def rows_by_shard(run_id: str, shards: int, **columns: Any) -> list[IndexRow]:
    """A row for each shard."""
    found: dict[int, IndexRow] = {}
    for number in range(100):
        row = row_of(number, run_id, **columns)
        found.setdefault(shard_of(row.identity, shards), row)
    return [found[shard] for shard in range(shards)]


def test_segments_of_all_shards_with_one_number_are_reported(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    for shard, row in enumerate(rows_by_shard(run, 3)):
        append_rows(layout, row, log=LogShard(3, shard))
        assert trail.report() == 1
    assert instances(file) == 3
    assert audited(layout, file).report() == 0


def test_a_batch_run_is_reported_while_it_appends(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    for shard, row in enumerate(rows_by_shard(run, 2, ingest_date="2026-01-01")):
        append_after(
            layout, LogShard(2, shard), LogEnd(), to_table([row]), run_id=run, ingest_date="2026-01-01"
        )  # fmt: skip
        assert trail.report() == 1
    assert instances(file) == 2


@pytest.mark.parametrize("kind", ["batch", "slice", "stream"])
def test_segments_rewritten_before_they_are_reported_are_not_lost(
    tmp_path: Path, kind: str
) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    trail.begin(run)
    run = f"{run}.7" if kind == "slice" else run
    rows = rows_by_shard(run, 3, ingest_date="2026-01-01")

    def add(shard: int) -> None:
        log = LogShard(3, shard)
        if kind == "stream":
            append_rows(layout, rows[shard], log=log)
        else:
            table = to_table([rows[shard]])
            append_after(layout, log, LogEnd(), table, run_id=run, ingest_date="2026-01-01")

    add(0)
    assert trail.report() == 1
    add(1)
    change(layout, rows[0], rows[1])  # rewrites both segments
    add(2)
    assert trail.report() == 2 + 2  # and the changed decisions of two studies
    assert (instances(file), instances(file, "rerouted")) == (3, 2)
    compact(layout, "2100-01-01")
    assert audited(layout, file).report() == trail.report() == 0


def test_a_slice_in_the_segment_of_its_number_is_not_of_a_stream(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run, day, log = audited(layout, file), new_run_id(), "2026-01-01", LogShard(1, 0)
    trail.begin(run)
    for number in (1, 3):  # the second slice has only unchanged objects
        slice_id = f"{run}.{number}"
        table = to_table([row_of(number, slice_id, ingest_date=day)])
        end = log_ends(layout).get(log, LogEnd())
        append_after(layout, log, end, table, run_id=slice_id, ingest_date=day)
        if number == 1:
            assert trail.report() == 1
    compact(layout, "2026-01-02")  # before the other one is reported
    assert trail.report() == 1
    assert instances(file) == 2
    assert audited(layout, file).report() == trail.report() == 0


def test_rows_of_logs_with_another_number_of_shards_are_not_reported_again(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run, day = audited(layout, file), new_run_id(), "2026-01-01"
    trail.begin(run)
    table = to_table([row_of(number, run, ingest_date=day) for number in range(8)])
    append_after(layout, LogShard(1, 0), LogEnd(), table, run_id=run, ingest_date=day)
    trail.report()
    assert instances(file) == 8
    run = new_run_id()
    rows = rows_by_shard(run, 3, ingest_date=day, source_version="2-2")
    for shard, row in enumerate(rows):
        append_after(
            layout, LogShard(3, shard), LogEnd(), to_table([row]), run_id=run, ingest_date=day
        )
    compact(layout, "2026-01-02")  # before they are reported
    trail.report()
    assert instances(file) == 8 + 3
