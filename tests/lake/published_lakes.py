"""Small lakes that publish Delta and Iceberg tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyiceberg.table import Table

from tests.lake.rows import append_rows, index_row, new_lake, set_clock
from transforms.lake.iceberg_table import open_catalog
from transforms.lake.layout import Layout
from transforms.lake.published_tables import publish
from transforms.lake.schema import IndexRow
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings

DAYS = "2026-01-01", "2026-01-02", "2026-01-03"


def rows_of_day(day: int, number: int = 3) -> list[IndexRow]:
    """Return rows that differ from those of other days."""
    return [
        index_row(f"/data/{day}-{n}.dcm", f"{day}{n:063x}", sop_instance_uid=f"1.2.{day}.{n}")
        for n in range(number)
    ]


def append_day(layout: Layout, day: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, DAYS[day])
    append_rows(layout, *rows_of_day(day))


def settings_of(layout: Layout, **more: Any) -> TableSettings:
    """Return settings for both formats, with a catalog beside the lake."""
    catalog = Path(layout.root).parent / "catalog.db"
    return TableSettings(True, IcebergSettings(f"sqlite:///{catalog}"), **more)


def published(layout: Layout, **more: Any) -> Layout:
    record_settings(layout, settings_of(layout, **more))
    publish(layout)
    return layout


def delta_of(layout: Layout) -> DeltaTable:
    return DeltaTable(Path(layout.root) / "_tables" / "index")


def iceberg_of(layout: Layout) -> Table:
    settings = settings_of(layout).iceberg
    assert settings is not None
    return open_catalog(settings.catalog, layout.root).load_table(settings.table)


def two_days(folder: Path) -> Layout:
    """Return a lake of two days that publishes both tables."""
    layout = new_lake(folder / "lake")
    with pytest.MonkeyPatch.context() as clock:
        append_day(layout, 0, clock)
        append_day(layout, 1, clock)
    return published(layout)


def sources(table: DeltaTable | Table) -> list[str]:
    data = table.to_pyarrow_table() if isinstance(table, DeltaTable) else table.scan().to_arrow()
    return sorted(data["source_uri"].to_pylist())


def expected(*days: int) -> list[str]:
    return sorted(row.source_uri for day in days for row in rows_of_day(day))


def data_files(layout: Layout) -> list[Path]:
    return [p for p in Path(layout.published_index).glob("ingest_date=*/*") if p.is_file()]


def sorted_rows(table: pa.Table | pl.DataFrame | pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table in order of source."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    rows: list[dict[str, Any]] = (
        table.to_pylist() if isinstance(table, pa.Table) else table.to_dicts()
    )
    return sorted(rows, key=lambda row: (row["source_uri"], row["source_version"]))
