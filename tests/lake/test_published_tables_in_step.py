"""Published tables are kept in step with the index: one version for each change, none lost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cli import main
from tests.graphs import config_of
from tests.lake.published_lakes import (
    DAYS,
    append_day,
    data_files,
    delta_of,
    expected,
    iceberg_of,
    published,
    rows_of_day,
    settings_of,
    sorted_rows,
    sources,
    two_days,
)
from tests.lake.rows import append_rows, index_row, new_lake
from transforms.append_index_stream import SweepJournalFn
from transforms.lake import iceberg_table
from transforms.lake.compaction import compact
from transforms.lake.delta_table import DeltaIndex
from transforms.lake.iceberg_table import IcebergIndex
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.published_tables import Publisher, publish, table_states
from transforms.lake.supersede import supersede
from transforms.lake.table_settings import IcebergSettings, record_settings
from transforms.lake.verify import verify_lake


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lake of two days that publishes both tables."""
    return two_days(tmp_path)


def test_there_is_one_version_for_each_rewrite(layout: Layout) -> None:
    before = delta_of(layout).version(), len(iceberg_of(layout).metadata.snapshots)
    row = index_row("/data/0-0.dcm", f"0{0:063x}", sop_instance_uid="1.2.0.0", run_id="later")
    supersede(layout, [replace(row, destination="review", status="review")], "later")
    after = delta_of(layout).version(), len(iceberg_of(layout).metadata.snapshots)
    assert after == (before[0] + 1, before[1] + 1)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    found = delta_of(layout).to_pyarrow_table().to_pylist()
    assert sorted_rows(pa.Table.from_pylist(found))[0]["destination"] == "review"


def test_the_next_writer_brings_a_table_into_step(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_day(layout, 2, monkeypatch)  # and the process is killed before it publishes
    assert [(state.missing > 0, state.in_step) for state in table_states(layout)] == [
        (True, False)
    ] * 2
    open_lake(layout)
    assert [state.in_step for state in table_states(layout)] == [True, True]
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1, 2)


def test_verify_finds_a_table_that_is_behind(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_day(layout, 2, monkeypatch)
    kinds = {one.kind for one in verify_lake(layout).violations if "table" in one.kind}
    assert kinds == {"published table behind the index; run 'dicom-router publish'"}
    publish(layout)
    assert not any("table" in one.kind for one in verify_lake(layout).violations)


def test_a_commit_is_refused_after_that_of_another_process(layout: Layout) -> None:
    settings = settings_of(layout).iceberg
    assert settings is not None
    for table in (DeltaIndex(layout), IcebergIndex(layout, settings)):
        one, other = table.current(), table.current()
        assert one is not None
        first, second, *_ = sorted(one.files)
        assert table.commit(one, [], [first]) is not None  # type: ignore[arg-type]
        assert table.commit(other, [], [second]) is None  # type: ignore[arg-type]
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)


def test_a_catalog_that_does_not_answer_does_not_stop_a_writer(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record_settings(
        layout, replace(settings_of(layout), iceberg=IcebergSettings("sqlite:////no/such.db"))
    )
    append_day(layout, 2, monkeypatch)
    compact(layout, DAYS[2])
    assert "published tables are behind" in caplog.text
    assert sources(delta_of(layout)) == expected(0, 1, 2)
    assert main(["publish", layout.root]) == 1


def test_a_lake_that_publishes_nothing_has_no_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    append_day(layout, 0, monkeypatch)
    append_day(layout, 1, monkeypatch)
    compact(layout, DAYS[1])
    assert publish(layout) == table_states(layout) == []
    assert not Path(layout.tables).exists()


def test_replaced_files_are_removed_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    append_day(layout, 0, monkeypatch)
    append_rows(layout, *rows_of_day(2))
    append_day(layout, 1, monkeypatch)
    published(layout, keep_hours=0.0)
    compact(layout, DAYS[1])
    names = {str(p.relative_to(layout.published_index)) for p in data_files(layout)}
    assert names == {str(Path(uri).relative_to(layout.index)) for uri in list_index(layout)}


def test_what_tables_keep_about_their_past_is_limited(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.lake.delta_table.CHECKPOINT_INTERVAL", 4)
    monkeypatch.setattr(iceberg_table, "MAX_SNAPSHOTS", 4)
    shutil.rmtree(layout.tables)
    record_settings(layout, replace(settings_of(layout), keep_hours=0))
    IcebergIndex(layout, IcebergSettings(settings_of(layout).iceberg.catalog)).drop()
    for number in range(7):
        append_rows(layout, index_row(f"/more/{number}.dcm", sop_instance_uid=f"1.3.{number}"))
        publish(layout)
    log = Path(layout.published_index, "_delta_log")
    assert list(log.glob("*.checkpoint.parquet"))
    assert len(iceberg_of(layout).metadata.snapshots) <= 5
    manifests = list(Path(layout.tables, "iceberg", "metadata").glob("snap-*.avro"))
    assert len(manifests) <= 5
    assert sources(delta_of(layout)) == sources(iceberg_of(layout))
    assert len(sources(delta_of(layout))) == 13


def test_a_stream_publishes_once_in_an_interval(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_day(layout, 2, monkeypatch)
    Publisher.keep_in_step(layout, 3600)
    assert sources(delta_of(layout)) == expected(0, 1, 2)
    append_rows(layout, index_row("/later.dcm", sop_instance_uid="1.9"))
    Publisher.keep_in_step(layout, 3600)
    assert sources(delta_of(layout)) == expected(0, 1, 2)
    Publisher.keep_in_step(layout, 0)
    assert sources(delta_of(layout)) == sorted([*expected(0, 1, 2), "/later.dcm"])


def test_a_stream_publishes_what_its_workers_append(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_of("--source=watch"), layout=layout)
    append_day(layout, 2, monkeypatch)
    step = SweepJournalFn(config)
    assert list(step.process(1)) == []
    assert sources(delta_of(layout)) == expected(0, 1)
    assert list(step.process(0)) == []
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1, 2)
