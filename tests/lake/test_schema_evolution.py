"""Index files of other releases, with one column more or less, are read, added to and merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, write
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.schema import COLUMNS
from transforms.lake.verify import verify_lake

pytestmark = pytest.mark.slow

DAYS = ("2026-03-01", "2026-03-02")
NEW = pa.field("future", pa.string(), metadata={"description": "Of a later release"})


@pytest.fixture
def two_files(copied: Lake, routed: Path, route: Route, tmp_path: Path) -> Lake:
    """The lake of `routed`, of which all rows are in one file of a past day, and another file beside.

    The sources of the second are `b/5.dcm`, and `b/copy.dcm`, a copy of one in the first.
    """
    (partition,) = (copied.root / "index").iterdir()
    partition.rename(partition.with_name(f"ingest_date={DAYS[0]}"))
    write(tmp_path / "b", "5.dcm", dicom_bytes(image(5, (96, 64)), name="5"))
    write(tmp_path / "b", "copy.dcm", (routed / "source" / "0.dcm").read_bytes())
    lenient = ("--policy", str(routed / "lenient.yaml"))
    date = ("--ingest_date", DAYS[0], "--index_shards", "1")
    summary = route(*lenient, *date, inputs=(str(tmp_path / "b"),))
    assert counts(summary) == {"routed": 1, "duplicate": 1}
    return copied


def files(lake: Lake) -> list[Path]:
    return sorted((lake.root / "index" / f"ingest_date={DAYS[0]}").glob("*.parquet"))


def second(lake: Lake) -> Path:
    """Return the file of another number of shards, with the rows of `b`."""
    (path,) = [path for path in files(lake) if path.name.startswith("log-001-")]
    return path


def change(path: Path, changed: Callable[[pa.Table], pa.Table]) -> None:
    metadata = pq.read_schema(path).metadata
    table = changed(pq.read_table(path, partitioning=None))
    pq.write_table(table.replace_schema_metadata(metadata), path)


def add_column(table: pa.Table) -> pa.Table:
    return table.append_column(NEW, [[f"value {n}" for n in range(len(table))]])


def drop_column(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def widen_column(table: pa.Table) -> pa.Table:
    position = table.schema.get_field_index("rows")
    field = table.schema.field(position).with_type(pa.int64())
    return table.set_column(position, field, table["rows"].cast(pa.int64()))


CHANGES = {
    "a column more": add_column,
    "without a column of format 2": drop_column("policy_id"),
    "without a column of format 1": drop_column("number_of_frames"),
    "a wider column": widen_column,
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_columns_are_read_added_to_and_merged(
    two_files: Lake, routed: Path, route: Route, tmp_path: Path, name: str
) -> None:
    change(second(two_files), CHANGES[name])
    missing = name == "without a column of format 1"

    def verify() -> list[str]:
        report = verify_lake(Layout(str(two_files.root)), deep=True)
        assert report.rows == len(two_files.rows())
        return [violation.kind for violation in report.violations]

    expected = ["columns missing in an index file"] if missing else []
    assert verify() == expected
    sources = (str(routed / "source"), str(tmp_path / "b"))
    assert counts(route(inputs=sources)) == {"unchanged": 8}
    write(tmp_path / "b", "6.dcm", dicom_bytes(image(6, (96, 64)), name="6"))
    write(tmp_path / "b", "copy of 5.dcm", (tmp_path / "b" / "5.dcm").read_bytes())
    lenient = ("--policy", str(routed / "lenient.yaml"))
    summary = route(*lenient, "--ingest_date", DAYS[1], inputs=sources)
    assert counts(summary) == {"routed": 1, "duplicate": 1, "unchanged": 8}
    assert verify() == expected

    assert main(["compact", str(two_files.root)]) == 0
    assert verify() == [], "the merged file has all columns"
    assert violations(two_files.root) == []
    (merged,) = [path for path in files(two_files) if path.name.startswith("part-")]
    schema = pq.read_schema(merged)
    further = ["future"] if name == "a column more" else []
    assert schema.names == [*(n for n in COLUMNS if n != "ingest_date"), *further]
    assert all(field.metadata[b"description"] for field in schema)
    if further:
        values = pq.read_table(merged, partitioning=None)["future"].drop_null().to_pylist()
        assert sorted(values) == ["value 0", "value 1"]


def test_plain_readers_read_both(two_files: Lake) -> None:
    change(second(two_files), add_column)
    schema = pa.schema([*pq.read_schema(second(two_files)), ("ingest_date", pa.string())])
    data = ds.dataset(two_files.root / "index", schema, format="parquet", partitioning="hive")
    assert len(two_files.rows()) == data.count_rows() == 8
    query = f"""SELECT count(*), count(future) FROM read_parquet(
        '{two_files.root}/index/*/*.parquet', union_by_name = true, hive_partitioning = true)"""
    assert duckdb.sql(query).fetchall() == [(8, 2)]


def test_rows_that_are_decided_again_keep_what_others_have(
    two_files: Lake, routed: Path, route: Route
) -> None:
    """A later column of rows that stay is kept when their file is rewritten."""
    change(second(two_files), add_column)
    strict = ("--policy", str(routed / "strict.yaml"), "--reprocess", "policy")
    route(*strict, inputs=(str(routed / "source" / "0.dcm"),))
    assert violations(two_files.root) == []
    kept: list[Any] = [
        value
        for path in files(two_files)
        if "future" in pq.read_schema(path).names
        for value in pq.read_table(path, partitioning=None)["future"].drop_null().to_pylist()
    ]
    assert "value 0" in kept, "of b/5.dcm; the copy follows its first"
