"""`pipeline.api.Lake`: rows, objects and thumbnails, read from lakes that tests have written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.api import Lake, UsageError
from tests.lake.rows import index_row
from tests.stores import Store
from transforms.core.object_ref import object_key
from transforms.lake import index_files
from transforms.lake.files import put_bytes
from transforms.lake.index_files import DamagedFile, parquet_bytes
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.rewrite_intents import RewriteIntent, write_intent
from transforms.lake.row_condition import RowCondition
from transforms.lake.schema import COLUMNS, IndexRow, to_table
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import join

DAYS = ("2026-01-01", "2026-01-02")


def write_file(layout: Layout, day: str, name: str, *rows: IndexRow) -> str:
    uri = join(layout.partition(day), name)
    put_bytes(uri, parquet_bytes(to_table(rows)), scratch=layout.scratch())
    return uri


def write_lake(root: str) -> Layout:
    """Write a lake of three rows in two partitions."""
    layout = Layout(root)
    write_marker(layout)
    write_file(layout, DAYS[0], "part-1.parquet", index_row("/a", confidence=0.5), index_row("/b"))
    write_file(layout, DAYS[1], "part-2.parquet", index_row("/c", confidence=0.9, rows=7))
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return write_lake(str(tmp_path / "lake"))


def test_all_forms_have_the_rows_that_duckdb_reads(layout: Layout) -> None:
    lake = Lake(layout.root)
    table = lake.decisions().to_arrow()
    assert table.column_names == list(COLUMNS)
    expected = duckdb.sql(
        f"select source_uri, ingest_date::varchar, confidence from '{layout.index}/**/*.parquet' "
        "order by 1"
    ).fetchall()
    columns = ["source_uri", "ingest_date", "confidence"]
    decisions = lake.decisions(columns)
    assert decisions.to_arrow().to_pydict() == dict(
        zip(columns, map(list, zip(*expected, strict=True)), strict=True)
    )
    assert list(decisions.to_pandas().source_uri) == ["/a", "/b", "/c"]
    assert decisions.to_polars().rows() == expected
    assert pa.Table.from_batches(decisions.batches()) == decisions.to_arrow()
    assert decisions.schema.field("confidence").metadata[b"description"]


@pytest.mark.parametrize(
    ("where", "sources"),
    [
        ("confidence > 0.8", ["/c"]),
        ("ingest_date = '2026-01-01' AND confidence IS NULL", ["/b"]),
        ("\"rows\" = 7 OR source_uri = '/a'", ["/a", "/c"]),
        ("COLUMNS('prob_.*') IS NULL", ["/a", "/b", "/c"]),
        ("false", []),
        ("true", ["/a", "/b", "/c"]),
    ],
)
def test_a_condition_may_name_columns_that_are_not_returned(
    layout: Layout, where: str, sources: list[str]
) -> None:
    found = Lake(layout.root).decisions(["source_uri"], where=where)
    assert found.to_arrow().to_pydict() == {"source_uri": sources}
    assert [one for batch in found.batches() for one in batch["source_uri"].to_pylist()] == sources


def test_only_needed_columns_and_row_groups_are_read(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    real: Callable[..., Any] = index_files.read_batches

    def recording(file: object, columns: list[str], groups: list[int]) -> Any:
        read.append(list(columns))
        return real(file, columns, groups)

    monkeypatch.setattr("transforms.lake.select_rows.read_batches", recording)
    Lake(layout.root).decisions(["destination"], where="confidence > 0.8").to_arrow()
    assert read == [["confidence"], ["confidence"], ["destination"]], "nothing of the first file"


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("status = 'routed' AND NOT Header_Agrees", {"status", "header_agrees"}),
        ("list_contains(['CR', 'DX'], modality)", {"modality"}),
        ("EXISTS (SELECT 1 WHERE stage = 'place')", {"stage"}),
        ("1 = 1", {"status"}),
        ("COLUMNS('prob_.*') > 0.5", set(COLUMNS)),
    ],
)
def test_the_columns_of_a_condition(sql: str, columns: set[str]) -> None:
    assert set(RowCondition(sql).columns) == columns


def test_mistakes_are_usage_errors(layout: Layout, tmp_path: Path) -> None:
    lake = Lake(layout.root)
    with pytest.raises(UsageError, match="no column 'confidenc': did you mean 'confidence'"):
        lake.decisions(["confidenc"])
    with pytest.raises(UsageError, match="--where"):
        lake.decisions(where="confidence >")
    with pytest.raises(UsageError, match="evaluated"):
        lake.decisions(where="source_uri::INT > 1").to_arrow()
    with pytest.raises(UsageError, match="no such folder"):
        Lake(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"lake\.json"):
        Lake(tmp_path)
    with pytest.raises(LookupError, match="no row of object 0123456789ab"):
        lake.open_object("0123456789ab")
    with pytest.raises(FileNotFoundError, match="verify"):
        lake.open_object(object_key("/a"))


def test_a_damaged_file_is_named(layout: Layout) -> None:
    uri = write_file(layout, DAYS[0], "part-3.parquet", index_row("/d"))
    uri_to_path(uri).write_bytes(b"PAR1 not")
    with pytest.raises(DamagedFile, match=r"part-3\.parquet"):
        Lake(layout.root).decisions(["status"]).to_arrow()


def test_each_row_is_read_once_during_a_rewrite_in_a_store(store: Store) -> None:
    layout = write_lake(f"{store.root}/lake")
    merged = write_file(layout, DAYS[0], "part-3.parquet", index_row("/a"), index_row("/b"))
    name = merged.rpartition("/")[2]
    write_intent(layout, "x", RewriteIntent(DAYS[0], name, ("part-1.parquet",)))
    lake = Lake(layout.root)
    assert lake.decisions(["source_uri"]).to_arrow().to_pydict() == {
        "source_uri": ["/a", "/b", "/c"]
    }
    row = lake.rows(object_key("/c"))[0]
    put_bytes(layout.absolute(str(row.object_uri)), b"content", scratch=layout.scratch())
    with lake.open_object(row.object_key) as stored:
        assert stored.read() == b"content"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction between listing and reading."""
    real: Callable[..., Any] = index_files.open_index_file
    opened: list[str] = []

    def open_late(uri: str) -> Any:
        if not opened:
            write_file(layout, DAYS[0], "part-9.parquet", index_row("/a"), index_row("/b"))
            uri_to_path(join(layout.partition(DAYS[0]), "part-1.parquet")).unlink()
        opened.append(uri)
        return real(uri)

    monkeypatch.setattr("transforms.lake.select_rows.open_index_file", open_late)
    rows = [
        row
        for batch in Lake(layout.root).decisions(["source_uri"]).batches()
        for row in batch.to_pylist()
    ]
    assert [row["source_uri"] for row in rows] == ["/a", "/b", "/c"]
