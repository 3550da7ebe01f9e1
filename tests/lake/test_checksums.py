"""Index files have checksums of pages and of the whole file; deep verification finds each flipped bit."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import Lake
from tests.lake.rows import index_row, lake_of, rows_in
from transforms.lake.append import seal_partitions_before
from transforms.lake.checksums import MAGIC, is_intact
from transforms.lake.compaction import compact
from transforms.lake.index_files import DamagedFile, parquet_bytes, read_table
from transforms.lake.journal import write_journal
from transforms.lake.layout import Layout
from transforms.lake.schema import SCHEMA, to_table
from transforms.lake.verify import verify_lake

ROWS = [index_row(f"/in/{number}", sop_instance_uid=f"1.{number}") for number in range(3)]
LATER = "2100-01-01"


@pytest.fixture(scope="module")
def small_file() -> bytes:
    return parquet_bytes(to_table(ROWS), {b"dicom_router.run_id": b"r"})


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.slow
def test_each_flipped_bit_of_a_file_is_found(small_file: bytes) -> None:
    assert is_intact(io.BytesIO(small_file)) is True
    missed = [
        bit
        for bit in range(8 * len(small_file))
        if is_intact(io.BytesIO(flip(small_file, bit))) is not False
    ]
    assert missed == []


@pytest.mark.parametrize("end", [1, 4, 8, 100])
def test_a_shortened_file_is_found(small_file: bytes, end: int) -> None:
    assert is_intact(io.BytesIO(small_file[:-end])) is False
    assert is_intact(io.BytesIO(small_file[end:])) is False


def test_a_value_cannot_imitate_the_trailer() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    with pytest.raises(UnicodeEncodeError):
        pa.array([MAGIC.decode(errors="surrogateescape")], pa.string())


@pytest.mark.parametrize("read", [pq.read_table, lambda path: duckdb.read_parquet(path).arrow()])
def test_other_readers_skip_the_trailer(
    small_file: bytes, tmp_path: Path, read: Callable[[str], pa.Table]
) -> None:
    path = tmp_path / "file.parquet"
    path.write_bytes(small_file)
    table = pa.table(read(str(path)))
    assert table.column_names == SCHEMA.names
    assert table["source_uri"].to_pylist() == [row.source_uri for row in ROWS]


def test_a_flipped_bit_in_a_page_is_found_while_reading(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ingest_date=2026-01-01" / "file.parquet"
    path.parent.mkdir()
    column = pq.ParquetFile(io.BytesIO(small_file)).metadata.row_group(0).column(0)
    last_byte = column.dictionary_page_offset + column.total_compressed_size - 1
    path.write_bytes(flip(small_file, 8 * last_byte))
    with pytest.raises(DamagedFile):
        read_table(str(path))


@pytest.fixture
def lake(copied: Lake) -> Lake:
    """A lake that `verify` finds nothing in, with a journal, and a past day that was compacted."""
    layout = Layout(str(copied.root))
    seal_partitions_before(layout, LATER)
    assert compact(layout, LATER)[0].merged_files > 1
    write_journal(layout, ROWS, "fingerprint")
    assert verify_lake(layout, deep=True).holds
    return copied


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ["index/*/part-*.parquet", "index/*/log-*.parquet", "journal/*.parquet"]
)
def test_deep_verification_finds_a_flipped_bit(
    lake: Lake, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = min(lake.root.glob(pattern))
    data = path.read_bytes()
    for position in (0, len(data) // 2, len(data) - 300, len(data) - 7, len(data) - 1):
        path.write_bytes(flip(data, 8 * position))
        assert main(["verify", str(lake.root), "--deep"]) == 1
        out = capsys.readouterr().out
        assert f"index file with other bytes:  {path.relative_to(lake.root)}\n" in out
    path.write_bytes(data)
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_files_without_checksums_are_read_and_verified(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", ROWS)
    before = rows_in(layout)
    (path,) = (tmp_path / "lake").glob("index/*/*.parquet")
    table, metadata = pq.read_table(path, partitioning=None), pq.read_schema(path).metadata
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
    assert is_intact(io.BytesIO(path.read_bytes())) is None
    assert rows_in(layout) == before
    kinds = {violation.kind for violation in verify_lake(layout, deep=True).violations}
    assert kinds == {"missing object"}, "rows were appended without their objects"
    shutil.copy(path, path.with_name("part-other.parquet"))
    seal_partitions_before(layout, LATER)
    compact(layout, LATER)
