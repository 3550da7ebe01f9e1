"""An Iceberg table in AWS Glue, against the test server moto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.lake.rows import append_rows, index_row, lake_of
from transforms.lake.iceberg_table import open_catalog
from transforms.lake.published_tables import publish, table_states
from transforms.lake.table_settings import GLUE, IcebergSettings, TableSettings, record_settings


@pytest.fixture
def glue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let clients of AWS find the server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("glue")
def test_a_table_in_glue_is_kept_in_step(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", [index_row("/a.dcm", sop_instance_uid="1.2.3")])
    record_settings(layout, TableSettings(iceberg=IcebergSettings(GLUE)))
    publish(layout)
    append_rows(layout, index_row("/b.dcm", sop_instance_uid="1.2.4"))
    publish(layout)
    table = open_catalog(GLUE, layout.root).load_table("dicom_router.index")
    assert sorted(table.scan().to_arrow()["source_uri"].to_pylist()) == ["/a.dcm", "/b.dcm"]
    assert all(state.in_step for state in table_states(layout))
