"""What must scale with the index gives the same results when its limits are tiny."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from benchmarks import row_lake
from benchmarks.row_lake import OWN, RowLake
from pipeline.report import queries
from pipeline.report.database import Scope, open_report_data
from tests.lake.rows import append_rows, index_row, new_lake, replica_of
from transforms.core.object_ref import object_key
from transforms.core.reasons import Status
from transforms.lake import databases, index_replica, verify, verify_report
from transforms.lake.append_log import last_segments, parse_segment
from transforms.lake.compaction import compact
from transforms.lake.erasure_selection import select_by_age
from transforms.lake.existing_rows import (
    EXISTING_COLUMNS,
    ExistingRow,
    read_existing_rows,
    read_existing_versions,
)
from transforms.lake.index_files import DamagedFile, list_index, read_matching
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.recovery import recover
from transforms.lake.schema import VersionKey
from transforms.lake.verify import verify_lake

ROWS, DAYS = 1_000, 5
LIMIT = "24MB"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of compacted days and days with segments, whose row groups have at most 64 rows."""
    root = tmp_path_factory.mktemp("many") / "lake"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(row_lake, "ROW_GROUP_ROWS", 64)
        monkeypatch.setattr(row_lake, "SEGMENTS", 3)
        RowLake(root, objects=OWN).write(ROWS, DAYS)
    return root


@pytest.fixture(autouse=True)
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "MEMORY_LIMIT", LIMIT)
    monkeypatch.setattr(verify, "LOADING_MEMORY", LIMIT)
    monkeypatch.setattr(index_replica, "MEMORY_LIMIT", LIMIT)


@pytest.fixture
def layout(written: Path) -> Layout:
    return Layout(str(written))


def rows_of(root: Path | str) -> list[dict[str, Any]]:
    """Return the rows that a plain Parquet reader finds."""
    data = ds.dataset(f"{root}/index", format="parquet", partitioning="hive")
    found: list[dict[str, Any]] = data.to_table().to_pylist()
    return found


def by_version(row: ExistingRow) -> VersionKey:
    return row.version_key


@pytest.mark.slow
def test_a_lake_is_verified_within_little_memory(layout: Layout) -> None:
    report = verify_lake(layout, deep=True)
    assert report.violations == [] and report.holds
    assert (report.rows, report.objects) == (ROWS, ROWS - ROWS // 100)


def test_violations_are_counted_and_few_of_each_kind_listed(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "lake"
    shutil.copytree(layout.root, root, ignore=shutil.ignore_patterns("objects", "quarantine"))
    (root / "runs").joinpath("20260101T000000Z-00000000.json").write_text("{")
    monkeypatch.setattr(verify_report, "MAX_LISTED", ROWS)
    all_listed = verify_lake(Layout(str(root)))
    assert len(all_listed.violations) == all_listed.number == ROWS + 1
    monkeypatch.setattr(verify_report, "MAX_LISTED", 7)
    report = verify_lake(Layout(str(root)))
    assert (
        report.counts == all_listed.counts == {"missing object": ROWS, "unreadable run summary": 1}
    )
    assert len(report.violations) == 8 and not report.holds
    assert set(report.violations) <= set(all_listed.violations)


def test_contents_that_are_not_erased_are_not_held(layout: Layout) -> None:
    by_sink = {"quarantine": 2**62}
    rows = [row for row in rows_of(layout.root) if row["destination"] == "quarantine"]
    contents, numbers = select_by_age(layout, by_sink)
    assert contents == {row["content_sha256"] for row in rows}
    assert numbers == {"quarantine": len(contents)}
    tracemalloc.start()
    try:
        select_by_age(layout, by_sink)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ROWS * sys.getsizeof("a" * 64)


def test_rows_are_found_by_reading_few_columns(layout: Layout) -> None:
    rows = rows_of(layout.root)
    wanted = rows[:: ROWS // 7]
    identities = pa.array([row["sop_instance_uid"] or row["content_sha256"] for row in wanted])
    found = [row for uri in list_index(layout) for row in read_existing_rows(uri, identities)]
    expected = {
        (row["source_uri"], row["source_version"])
        for row in rows
        if {row["sop_instance_uid"], row["content_sha256"]} & set(identities.to_pylist())
    }
    assert sorted(row.version_key for row in found) == sorted(expected)
    keys = pa.array([row["object_key"] for row in wanted])
    versions = [v for uri in list_index(layout) for v in read_existing_versions(uri, keys)]
    assert {version.version_key for version in versions} == {
        (row["source_uri"], row["source_version"]) for row in wanted
    }


def test_rows_are_found_by_more_keys_than_a_row_group_has(layout: Layout) -> None:
    keys = {row["object_key"] for row in rows_of(layout.root)[::7]}
    others = {f"{number:012x}" for number in range(ROWS)} - keys
    wanted = pa.array(sorted(keys | others))
    found = [v for uri in list_index(layout) for v in read_existing_versions(uri, wanted)]
    assert sorted(object_key(one.source_uri) for one in found) == sorted(keys)


def test_no_wanted_value_matches_no_row(layout: Layout) -> None:
    nothing = pa.array([], pa.string())
    for uri in list_index(layout)[:2]:
        assert not list(read_matching(uri, ["status"], {"object_key": nothing}))
        assert list(read_matching(uri, ["status"], {"object_key": None}))


def test_a_replica_that_is_preloaded_knows_what_others_do(layout: Layout, tmp_path: Path) -> None:
    rows = rows_of(layout.root)[::100]
    with replica_of(layout) as replica, replica_of(Layout(str(tmp_path / "none"))) as empty:
        for one in (replica, empty):
            one.preload()
        replica.refresh()
        keys = {(row["source_uri"], row["source_version"]) for row in rows}
        assert replica.existing(list(keys)) == keys
        assert len(replica.rows_of(row["sop_instance_uid"] for row in rows)) >= len(rows) - 1
        assert empty.rows_of(["1.2"]) == []


def test_a_replica_that_only_polls_need_has_no_uids(layout: Layout) -> None:
    (row,) = rows_of(layout.root)[:1]
    with replica_of(layout) as replica:
        replica.preload(for_rows=False)
        replica.refresh()
        key = (row["source_uri"], row["source_version"])
        assert replica.existing([key]) == {key}
        assert not replica._uids.rows and not replica._digests.rows
        assert [one.version_key for one in replica.rows_of([row["sop_instance_uid"]])][:1] == [key]
        assert replica._uids.rows and not replica._digests.rows


def test_a_replica_for_versions_reads_the_index_once(layout: Layout) -> None:
    rows = rows_of(layout.root)
    states = {(row["source_uri"], row["source_version"]): row["source_state"] for row in rows}
    uri = rows[0]["source_uri"]
    with contextlib.closing(IndexReplica(layout, for_versions=True)) as replica:
        replica.refresh()
        assert replica.find({**states, (uri, "0-0"): None}) == dict.fromkeys(states, True)
        assert not replica._keys.rows
        assert {row.source_uri for row in replica.rows_of_source(uri)} == {uri}


def test_a_load_that_fails_leaves_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "INSERTED_ROWS", 10)
    rows = rows_of(layout.root)
    with replica_of(layout) as replica:
        with pytest.raises(FileNotFoundError):
            replica._keys.load([*list_index(layout)[-9:], f"{layout.index}/none.parquet"])
        assert replica._keys.rows.keys() == replica._keys._numbers.keys()
        replica.refresh()
        (number,) = replica._db.execute("SELECT count(*) FROM temporary.keys").fetchall()
    assert number == (len(rows),)


@pytest.fixture
def replica(layout: Layout) -> Iterator[IndexReplica]:
    with replica_of(layout) as replica:
        replica.refresh()
        yield replica


def test_a_replica_knows_each_version_and_state(layout: Layout, replica: IndexReplica) -> None:
    rows = rows_of(layout.root)
    keys = [(row["source_uri"], row["source_version"]) for row in rows]
    others = [(uri, f"{version}0") for uri, version in keys[:50]]
    assert replica.existing([*keys, *others]) == set(keys)
    states = {key: row["source_state"] for key, row in zip(keys, rows, strict=True)}
    changed = {key: f"{state}0" for key, state in list(states.items())[:50]}
    unknown = {key: None for key in keys[50:60]}
    found = replica.find({**states, **changed, **unknown})
    assert found == {key: key not in changed for key in keys}


def test_a_replica_reads_few_versions_from_the_index(layout: Layout, replica: IndexReplica) -> None:
    rows = rows_of(layout.root)
    some = {
        (row["source_uri"], row["source_version"]): row["source_state"] for row in rows[:150:50]
    }
    changed = {key: f"{state}0" for key, state in list(some.items())[:2]}
    other = {("/none", "1-1"): None, (rows[0]["source_uri"], "1-1"): None}
    assert replica.find({**some, **changed, **other}) == {key: key not in changed for key in some}
    assert not replica._holds_versions
    every = [(row["source_uri"], row["source_version"]) for row in rows]
    assert replica.existing(every) == set(every)
    assert replica._holds_versions
    assert replica.existing(every[:3]) == set(every[:3])


def test_a_replica_reads_the_rows_of_identities_from_the_index(
    layout: Layout, replica: IndexReplica
) -> None:
    rows = rows_of(layout.root)
    expected = [ExistingRow(**{name: row[name] for name in EXISTING_COLUMNS}) for row in rows]
    wanted = {row.identity for row in expected[::13]} | {"1.2.3", "f" * 64}
    found = sorted(replica.rows_of(wanted), key=by_version)
    assert found == sorted((row for row in expected if row.identity in wanted), key=by_version)
    one = expected[5]
    assert replica.rows_of_source(one.source_uri) == [one]
    assert replica.rows_of([]) == replica.rows_of_source("/nowhere") == []


def test_a_replica_reads_rows_where_compaction_has_put_them(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "index", tmp_path / "lake" / "index")
    layout = Layout(str(tmp_path / "lake"))
    last = next(uri for uri in list_index(layout) if parse_segment(uri))
    (row, *_) = read_existing_rows(last, None)
    with replica_of(layout) as replica:
        replica.refresh()
        assert compact(layout, "2026-01-05")
        assert not Path(last).exists()
        assert row in replica.rows_of([row.identity])
        assert replica.existing([row.version_key]) == {row.version_key}


def test_a_damaged_file_is_named_and_read_when_it_is_restored(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    for number in range(2):
        append_rows(layout, index_row(f"/in/{number}", sop_instance_uid=f"1.{number}"))
    _, second = map(Path, list_index(layout))
    data = second.read_bytes()
    second.write_bytes(data[:100])
    with replica_of(layout) as replica:
        with pytest.raises(DamagedFile, match=second.name):
            replica.refresh()
        second.write_bytes(data)
        replica.refresh()
        assert len(replica.existing([(f"/in/{n}", "1-1") for n in range(3)])) == 2


def test_nothing_to_recover_loads_no_index(layout: Layout) -> None:
    with replica_of(layout) as replica:
        assert recover(layout, "r", 1, replica) == 0
        assert replica.log_end(next(iter(last_segments(list_index(layout))))).last is None


def test_merged_segments_share_a_row_group(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "index", tmp_path / "lake" / "index")
    layout = Layout(str(tmp_path / "lake"))
    before = pa.Table.from_pylist(rows_of(layout.root)).sort_by("source_uri")
    compact(layout, "2026-01-04")
    (merged,) = Path(layout.partition("2026-01-03")).glob("part-*")
    assert pq.ParquetFile(merged).num_row_groups == 1
    assert pa.Table.from_pylist(rows_of(layout.root)).sort_by("source_uri").equals(before)


def test_a_report_counts_within_little_memory(layout: Layout) -> None:
    rows = pa.Table.from_pylist(rows_of(layout.root))
    with open_report_data(Scope(layout)) as data:
        counts = queries.status_counts(data)
        (reason,) = queries.reasons(data, Status.QUARANTINED)
    assert counts == {name: pc.sum(pc.equal(rows["status"], name)).as_py() for name in counts}
    quarantined = rows.filter(pc.equal(rows["status"], "quarantined"))["object_key"].to_pylist()
    assert reason["examples"] == sorted(quarantined)[:5]
