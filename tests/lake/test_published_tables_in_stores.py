"""Published tables of lakes in object stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.lake.rows import append_rows, index_row
from tests.stores import Store
from transforms.lake.append import seal_logs_ending_in
from transforms.lake.delta_table import DeltaIndex
from transforms.lake.iceberg_table import open_catalog
from transforms.lake.index_files import list_index, read_unified
from transforms.lake.layout import Layout, partition_of
from transforms.lake.marker import write_marker
from transforms.lake.published_tables import publish, remove_old_versions, table_states
from transforms.lake.rewrite import rewrite
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings
from transforms.lake.table_stores import delta_options

ROWS = ["/a.dcm", "/b.dcm"]


@pytest.mark.slow
def test_a_lake_in_a_store_has_tables(store: Store, tmp_path: Path) -> None:
    layout = Layout(f"{store.root}/lake")
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    write_marker(layout)
    for source in ROWS:
        append_rows(layout, index_row(source, sop_instance_uid=f"1.2.{ord(source[1])}"))
    record_settings(layout, TableSettings(True, IcebergSettings(catalog)))
    publish(layout)
    iceberg = open_catalog(catalog, layout.root).load_table("dicom_router.index")
    before = iceberg.scan()
    files = list_index(layout)
    seal_logs_ending_in(layout, files)
    rewrite(layout, partition_of(files[0]), files, read_unified(files))
    assert all(state.in_step for state in table_states(layout))
    assert sorted(before.to_arrow()["source_uri"].to_pylist()) == ROWS
    assert sorted(iceberg.refresh().scan().to_arrow()["source_uri"].to_pylist()) == ROWS
    location = layout.published_index
    delta = DeltaTable(location, storage_options=delta_options(location))
    assert sorted(delta.to_pyarrow_table()["source_uri"].to_pylist()) == ROWS
    remove_old_versions(layout)
    names = [name for name in store.read_all() if "_tables/index/ingest_date=" in name]
    assert len(names) == len(list_index(layout))
    assert iceberg.refresh().scan().to_arrow().num_rows == len(ROWS)


@pytest.mark.slow
def test_a_commit_is_refused_after_that_of_another_process(store: Store) -> None:
    layout = Layout(f"{store.root}/lake")
    write_marker(layout)
    for source in ROWS:
        append_rows(layout, index_row(source, sop_instance_uid=f"1.2.{ord(source[1])}"))
    record_settings(layout, TableSettings(True))
    publish(layout)
    table = DeltaIndex(layout)
    one, other = table.current(), table.current()
    assert one is not None
    first, second = sorted(one.files)
    assert table.commit(one, [], [first]) is not None
    assert table.commit(other, [], [second]) is None
    publish(layout)
    assert all(state.in_step for state in table_states(layout))
