"""No version of a published table has rows that were erased."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.lake.published_lakes import (
    DAYS,
    delta_of,
    expected,
    iceberg_of,
    rows_of_day,
    settings_of,
    sources,
    two_days,
)
from tests.lake.rows import append_rows, index_row
from transforms.lake.erasure_places import PLACES, Erasure
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.published_tables import publish, remove_old_versions, table_states
from transforms.lake.rewrite import rewrite
from transforms.lake.table_settings import IcebergSettings, record_settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lake of two days that publishes both tables."""
    return two_days(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """As `layout`, for tests that only read."""
    return two_days(tmp_path_factory.mktemp("unchanged"))


def test_values_of_rows_are_only_in_files_of_rows(unchanged: Layout) -> None:
    catalog = (Path(unchanged.root).parent / "catalog.db").read_bytes()
    for path in Path(unchanged.tables).rglob("*"):
        if path.is_file() and not path.parent.name.startswith("ingest_date="):
            for value in (b"1.2.0.0", b"/data/0", rows_of_day(0)[0].object_key.encode()):
                assert value not in path.read_bytes() + catalog, path


def test_no_version_has_erased_rows(layout: Layout) -> None:
    (uri, *_) = list_index(layout)
    table = pq.read_table(uri, partitioning=None)
    assert table["sop_instance_uid"][0].as_py() == "1.2.0.0"
    rewrite(layout, DAYS[0], [uri], [table.slice(1)])
    assert _holding(layout, b"1.2.0.0")
    remove_old_versions(layout)
    assert not _holding(layout, b"1.2.0.0")
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)[1:]
    assert len(iceberg_of(layout).metadata.snapshots) == 1
    assert not any(state.missing or state.extra for state in table_states(layout))


def test_no_table_that_was_stopped_has_erased_rows(layout: Layout) -> None:
    assert main(["publish", layout.root, "--stop"]) == 0
    (uri, *_) = list_index(layout)
    rewrite(layout, DAYS[0], [uri], [pq.read_table(uri, partitioning=None).slice(1)])
    assert _holding(layout, b"1.2.0.0")
    remove_old_versions(layout)
    assert not _holding(layout, b"1.2.0.0")


def test_rows_are_erased_though_a_catalog_does_not_answer(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    reachable = settings_of(layout)
    record_settings(layout, replace(reachable, iceberg=IcebergSettings("sqlite:////no/such.db")))
    (uri, *_) = list_index(layout)
    rewrite(layout, DAYS[0], [uri], [pq.read_table(uri, partitioning=None).slice(1)])
    remove_old_versions(layout)
    assert not _holding(layout, b"1.2.0.0")
    assert "published tables are behind" in caplog.text
    record_settings(layout, reachable)
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)[1:]


def test_an_erasure_reaches_versions_of_tables(layout: Layout) -> None:
    erasure = Erasure(frozenset([rows_of_day(0)[0].content_sha256 or ""]))
    append_rows(layout, index_row("/other.dcm", sop_instance_uid="1.7"))
    publish(layout)
    places = {place.name: place for place in PLACES}
    assert places["index"].erase(layout, erasure, True) == 1
    assert places["published tables"].erase(layout, erasure, False) == 1
    assert places["published tables"].erase(layout, erasure, True) == 1
    assert places["published tables"].erase(layout, erasure, False) == 0
    assert not _holding(layout, b"1.2.0.0")


def _holding(layout: Layout, value: bytes) -> list[Path]:
    return [
        path
        for path in Path(layout.root).parent.rglob("*")
        if path.is_file() and value in _uncompressed(path)
    ]


def _uncompressed(path: Path) -> bytes:
    if path.suffix == ".parquet" and "_delta_log" not in path.parts:
        return str(pq.read_table(path, partitioning=None).to_pylist()).encode()
    return path.read_bytes()
