"""An Iceberg table in a REST catalog, against Apache Iceberg's own catalog behind an HTTP server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from pyiceberg.utils.config import Config

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, route_into
from tests.lake.published_lakes import append_day, expected, rows_of_day, sources
from tests.lake.rows import lake_of, new_lake, rows_in
from tests.synthetic import dicom_bytes, image
from transforms.lake.iceberg_table import IcebergIndex
from transforms.lake.layout import Layout
from transforms.lake.published_tables import publish, table_states
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings

LIBS = Path(__file__).parents[2] / "build" / "iceberg"
SERVER = Path(__file__).parents[1] / "servers" / "iceberg" / "CatalogServer.java"

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the catalog, and return its URI."""
    if shutil.which("java") is None or not (LIBS / "ready").exists():
        pytest.skip("the REST catalog is not installed: install Java and Maven, run 'make iceberg'")
    warehouse = tmp_path_factory.mktemp("warehouse").as_uri()
    options = ["-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", f"{LIBS}/*"]
    command = ["java", *options, str(SERVER), warehouse]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            assert uri, "the catalog did not start"
            yield uri
        finally:
            process.kill()


def _table(catalog: str, name: str) -> Table:
    return load_catalog("reader", type="rest", uri=catalog).load_table(name)


def _in_step(layout: Layout, catalog: str, name: str) -> bool:
    """Return whether pyiceberg and DuckDB read the rows of the index from the table."""
    rows = sorted((row["source_uri"], row["status"]) for row in rows_in(layout))
    found = _table(catalog, name).scan().to_arrow()
    query = "SELECT source_uri, status FROM found ORDER BY ALL"
    read = duckdb.connect().register("found", found).sql(query).fetchall()
    return read == rows and all(state.in_step for state in table_states(layout))


def test_every_command_keeps_the_table_in_step(
    catalog: str, copied: Lake, routed: Path, tmp_path: Path
) -> None:
    layout, name = Layout(str(copied.root)), "hospital.index"
    lake = layout.root
    assert main(["publish", lake, "--iceberg", catalog, "--table", name]) == 0
    assert _in_step(layout, catalog, name)
    more = tmp_path / "more"
    more.mkdir()
    (more / "2.dcm").write_bytes(dicom_bytes(image(2, (96, 64)), name="2"))
    lenient = ("--policy", str(routed / "lenient.yaml"))
    route_into(copied, *lenient, inputs=(str(more),))
    (row,) = (row for row in copied.rows() if row["source_uri"].endswith("/0.dcm"))
    for command in (
        ["reroute", lake, "--policy", str(routed / "strict.yaml"), "--apply"],
        ["compact", lake],
        ["forget", lake, "--object", row["object_key"], "--apply", "--ordered_by", "request 7"],
    ):
        assert _in_step(layout, catalog, name)
        assert main(command) == 0
    assert _in_step(layout, catalog, name)
    assert len(_table(catalog, name).metadata.snapshots) == 1
    assert main(["verify", lake, "--deep"]) == 0
    assert violations(copied.root) == []


def test_a_catalog_by_name_has_its_token_from_the_configuration(
    catalog: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    table = ("--table", "secured.index")
    assert main(["publish", layout.root, "--iceberg", f"{catalog}/secured", *table]) == 1
    assert "the token is missing or wrong" in capsys.readouterr().err
    monkeypatch.setenv("PYICEBERG_CATALOG__HOSPITAL__URI", f"{catalog}/secured")
    monkeypatch.setenv("PYICEBERG_CATALOG__HOSPITAL__TOKEN", "secret")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # read when it was imported
    assert main(["publish", layout.root, "--iceberg", "hospital", *table]) == 0
    assert sources(_table(catalog, "secured.index")) == expected(0)
    files = (path for path in (tmp_path / "lake").rglob("*") if path.is_file())
    assert not [path for path in files if b"secret" in path.read_bytes()]


def test_a_commit_is_refused_after_that_of_another_process(
    catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    append_day(layout, 0, monkeypatch)
    append_day(layout, 1, monkeypatch)
    settings = IcebergSettings(catalog, "contended.index")
    record_settings(layout, TableSettings(iceberg=settings))
    publish(layout)
    index = IcebergIndex(layout, settings)
    one, other = index.current(), index.current()
    assert one is not None
    first, second, *_ = sorted(one.files)
    assert index.commit(one, [], [first]) is not None
    assert index.commit(other, [], [second]) is None
    publish(layout)
    assert sources(_table(catalog, "contended.index")) == expected(0, 1)


def test_a_moved_lake_is_published_again(catalog: str, tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    record_settings(layout, TableSettings(iceberg=IcebergSettings(catalog, "moved.index")))
    publish(layout)
    moved = Layout(str(tmp_path / "moved"))
    shutil.move(layout.root, moved.root)
    (state,) = table_states(moved)
    assert state.problem is not None and f"dicom-router publish {moved.root}" in state.problem
    assert main(["publish", moved.root]) == 0
    assert sources(_table(catalog, "moved.index")) == expected(0)
