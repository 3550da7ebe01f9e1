"""Published tables: what readers of Delta and Iceberg see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lake.published_lakes import (
    DAYS,
    append_day,
    delta_of,
    expected,
    iceberg_of,
    published,
    rows_of_day,
    sorted_rows,
    sources,
    two_days,
)
from tests.lake.rows import append_rows, index_row, lake_of, new_lake, rows_in
from transforms.lake import rewrite as rewrite_module
from transforms.lake.compaction import compact
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.published_tables import publish, table_states
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import COLUMNS


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lake of two days that publishes both tables."""
    return two_days(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """As `layout`, for tests that only read."""
    return two_days(tmp_path_factory.mktemp("unchanged"))


def _duckdb(table: Any) -> pa.Table:
    return duckdb.sql("SELECT * FROM found", connection=_connection(table)).to_arrow_table()


def _connection(table: Any) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("found", table)
    return connection


READERS: dict[str, Callable[[Layout], Any]] = {
    "deltalake": lambda lake: delta_of(lake).to_pyarrow_table(),
    "Delta in polars": lambda lake: pl.read_delta(str(Path(lake.root, "_tables", "index"))),
    "Delta in pandas": lambda lake: delta_of(lake).to_pandas(types_mapper=pd.ArrowDtype),
    "Delta in DuckDB": lambda lake: _duckdb(delta_of(lake).to_pyarrow_dataset()),
    "pyiceberg": lambda lake: iceberg_of(lake).scan().to_arrow(),
    "Iceberg in polars": lambda lake: pl.scan_iceberg(
        iceberg_of(lake), reader_override="pyiceberg"
    ).collect(),
    "Iceberg in pandas": lambda lake: (
        iceberg_of(lake).scan().to_arrow().to_pandas(types_mapper=pd.ArrowDtype)
    ),
    "Iceberg in DuckDB": lambda lake: _duckdb(iceberg_of(lake).scan().to_arrow()),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_see_the_rows_of_the_index(unchanged: Layout, reader: str) -> None:
    found = sorted_rows(READERS[reader](unchanged))
    assert [_plain(row) for row in found] == [_plain(row) for row in rows_in(unchanged)]
    assert found[0].keys() == COLUMNS.keys()
    assert {row["ingest_date"] for row in found} == set(DAYS[:2])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that readers represent in the same way."""
    return {
        name: row[name]
        for name in ("source_uri", "source_version", "ingest_date", "sop_instance_uid", "status")
    }


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_version_stays_readable_when_its_files_are_replaced(
    layout: Layout, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(rewrite_module, "exchange", lambda one, other: False)
    delta, iceberg = delta_of(layout), iceberg_of(layout)
    append_day(layout, 0, monkeypatch)
    append_day(layout, 2, monkeypatch)
    compact(layout, DAYS[2])
    assert sources(delta) == sources(iceberg) == expected(0, 1)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1, 2)
    assert [row["source_uri"] for row in rows_in(layout)] == expected(0, 1, 2)


def test_a_vacuum_by_another_program_removes_no_row(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_day(layout, 2, monkeypatch)  # not published
    delta_of(layout).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    assert [row["source_uri"] for row in rows_in(layout)] == expected(0, 1, 2)
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1, 2)


def test_files_are_second_names_and_not_copies(unchanged: Layout) -> None:
    for uri in list_index(unchanged):
        name = Path(uri).relative_to(unchanged.index)
        assert Path(unchanged.published_index, name).samefile(uri)


def test_plain_readers_of_the_index_see_nothing_else(unchanged: Layout) -> None:
    pattern = f"{unchanged.root}/index/**/*.parquet"
    assert len(duckdb.sql(f"FROM read_parquet('{pattern}')").fetchall()) == 6
    names = {path.suffix for path in Path(unchanged.index).rglob("*") if path.is_file()}
    assert names == {".parquet"}


def test_columns_are_added_and_missing_ones_are_null(layout: Layout) -> None:
    (uri, *_) = list_index(layout)
    table = pq.read_table(uri, partitioning=None).drop_columns(["shadow_label"])
    wider = table.append_column("site", pa.array(["north"] * len(table)))
    rewrite(layout, DAYS[0], [uri], [wider.replace_schema_metadata(None)])
    for rows in (
        sorted_rows(delta_of(layout).to_pyarrow_table()),
        sorted_rows(iceberg_of(layout).scan().to_arrow()),
    ):
        assert [row["site"] for row in rows] == ["north"] * 3 + [None] * 3
        assert [row["shadow_label"] for row in rows] == [None] * 6


def test_probabilities_of_other_labels_are_maps(tmp_path: Path) -> None:
    pairs = (("hand", 0.75), ("foot", 0.25))
    layout = published(lake_of(tmp_path / "lake", [index_row("/a.dcm", probabilities=pairs)]))
    for data in (delta_of(layout).to_pyarrow_table(), iceberg_of(layout).scan().to_arrow()):
        assert data["probabilities"].to_pylist() == [list(pairs)]


def test_a_lake_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    layout = published(new_lake(tmp_path / "lake"))
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == []
    append_rows(layout, *rows_of_day(0))
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0)


def test_names_of_files_need_no_quoting(layout: Layout) -> None:
    (uri, *_) = list_index(layout)
    Path(uri).rename(Path(uri).parent / "of another%20program #1 é.parquet")
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    compact(layout, DAYS[2])
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    assert all(state.in_step for state in table_states(layout))
