"""Published tables: what their readers see, while the index changes beneath them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyiceberg.table import Table

from pipeline.cli import main
from tests.conftest import Lake, route_into, write
from tests.graphs import config_of
from tests.lake.rows import append_rows, index_row, lake_of, new_lake, rows_in, set_clock
from tests.synthetic import dicom_bytes, image
from transforms.append_index_stream import SweepJournalFn
from transforms.lake import iceberg_table
from transforms.lake import rewrite as rewrite_module
from transforms.lake.compaction import compact
from transforms.lake.delta_table import DeltaIndex
from transforms.lake.erasure_places import PLACES, Erasure
from transforms.lake.iceberg_table import IcebergIndex, open_catalog
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.published_tables import (
    Publisher,
    publish,
    remove_old_versions,
    table_states,
)
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import COLUMNS, IndexRow
from transforms.lake.supersede import supersede
from transforms.lake.table_settings import IcebergSettings, TableSettings, record_settings
from transforms.lake.verify import verify_lake

DAYS = "2026-01-01", "2026-01-02", "2026-01-03"

Read = Callable[[Layout], list[dict[str, Any]]]


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


def _sorted(table: pa.Table | pl.DataFrame | pd.DataFrame) -> list[dict[str, Any]]:
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    rows: list[dict[str, Any]] = (
        table.to_pylist() if isinstance(table, pa.Table) else table.to_dicts()
    )
    return sorted(rows, key=lambda row: (row["source_uri"], row["source_version"]))


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


def two_days(folder: Path) -> Layout:
    """Return a lake of two days that publishes both tables."""
    layout = new_lake(folder / "lake")
    with pytest.MonkeyPatch.context() as clock:
        append_day(layout, 0, clock)
        append_day(layout, 1, clock)
    return published(layout)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lake of two days that publishes both tables."""
    return two_days(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """As `layout`, for tests that only read."""
    return two_days(tmp_path_factory.mktemp("unchanged"))


@pytest.mark.parametrize("reader", READERS)
def test_readers_see_the_rows_of_the_index(unchanged: Layout, reader: str) -> None:
    found = _sorted(READERS[reader](unchanged))
    assert [_plain(row) for row in found] == [_plain(row) for row in rows_in(unchanged)]
    assert found[0].keys() == COLUMNS.keys()
    assert {row["ingest_date"] for row in found} == set(DAYS[:2])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that readers represent in the same way."""
    return {
        name: row[name]
        for name in ("source_uri", "source_version", "ingest_date", "sop_instance_uid", "status")
    }


def sources(table: DeltaTable | Table) -> list[str]:
    data = table.to_pyarrow_table() if isinstance(table, DeltaTable) else table.scan().to_arrow()
    return sorted(data["source_uri"].to_pylist())


def expected(*days: int) -> list[str]:
    return sorted(row.source_uri for day in days for row in rows_of_day(day))


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


def test_there_is_one_version_for_each_rewrite(layout: Layout) -> None:
    before = delta_of(layout).version(), len(iceberg_of(layout).metadata.snapshots)
    row = index_row("/data/0-0.dcm", f"0{0:063x}", sop_instance_uid="1.2.0.0", run_id="later")
    supersede(layout, [replace(row, destination="review", status="review")], "later")
    after = delta_of(layout).version(), len(iceberg_of(layout).metadata.snapshots)
    assert after == (before[0] + 1, before[1] + 1)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    found = delta_of(layout).to_pyarrow_table().to_pylist()
    assert _sorted(pa.Table.from_pylist(found))[0]["destination"] == "review"


def test_files_are_second_names_and_not_copies(unchanged: Layout) -> None:
    for uri in list_index(unchanged):
        name = Path(uri).relative_to(unchanged.index)
        assert Path(unchanged.published_index, name).samefile(uri)


def test_plain_readers_of_the_index_see_nothing_else(unchanged: Layout) -> None:
    pattern = f"{unchanged.root}/index/**/*.parquet"
    assert len(duckdb.sql(f"FROM read_parquet('{pattern}')").fetchall()) == 6
    names = {path.suffix for path in Path(unchanged.index).rglob("*") if path.is_file()}
    assert names == {".parquet"}


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


def test_columns_are_added_and_missing_ones_are_null(layout: Layout) -> None:
    (uri, *_) = list_index(layout)
    table = pq.read_table(uri, partitioning=None).drop_columns(["shadow_label"])
    wider = table.append_column("site", pa.array(["north"] * len(table)))
    rewrite(layout, DAYS[0], [uri], [wider.replace_schema_metadata(None)])
    for rows in (
        _sorted(delta_of(layout).to_pyarrow_table()),
        _sorted(iceberg_of(layout).scan().to_arrow()),
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


def test_a_lake_that_publishes_nothing_has_no_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    append_day(layout, 0, monkeypatch)
    append_day(layout, 1, monkeypatch)
    compact(layout, DAYS[1])
    assert publish(layout) == table_states(layout) == []
    assert not Path(layout.tables).exists()


def test_a_moved_lake_is_published_again(layout: Layout, tmp_path: Path, capsys: Any) -> None:
    moved = Layout(str(tmp_path / "moved"))
    shutil.move(layout.root, moved.root)
    assert sources(delta_of(moved)) == expected(0, 1)
    (iceberg,) = (state for state in table_states(moved) if "Iceberg" in state.name)
    assert iceberg.problem is not None
    assert f"dicom-router publish {moved.root}" in iceberg.problem
    assert main(["publish", moved.root]) == 0
    assert sources(iceberg_of(moved)) == expected(0, 1)


def test_a_table_of_another_lake_is_refused(layout: Layout, capsys: Any) -> None:
    other = lake_of(Path(layout.root).parent / "other", rows_of_day(2))
    catalog = settings_of(layout).iceberg
    assert catalog is not None
    assert main(["publish", other.root, "--iceberg", catalog.catalog]) == 2
    assert "belongs to another lake" in capsys.readouterr().err
    assert main(["publish", other.root, "--table", "dicom_router.other"]) == 0
    assert sources(iceberg_of(layout)) == expected(0, 1)


def test_names_of_files_need_no_quoting(layout: Layout) -> None:
    (uri, *_) = list_index(layout)
    Path(uri).rename(Path(uri).parent / "of another%20program #1 é.parquet")
    publish(layout)
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    compact(layout, DAYS[2])
    assert sources(delta_of(layout)) == sources(iceberg_of(layout)) == expected(0, 1)
    assert all(state.in_step for state in table_states(layout))


@pytest.mark.parametrize(
    ("name", "option"), [("a#b", "--iceberg=sqlite:////c.db"), ("a%20b", "--delta")]
)
def test_roots_that_a_format_cannot_read_are_refused(
    tmp_path: Path, name: str, option: str, capsys: Any
) -> None:
    layout = lake_of(tmp_path / name, rows_of_day(0))
    assert main(["publish", layout.root, option]) == 2
    assert "move the lake" in capsys.readouterr().err
    assert not Path(layout.tables).exists()


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


def test_replaced_files_are_removed_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    append_day(layout, 0, monkeypatch)
    append_rows(layout, *rows_of_day(2))
    append_day(layout, 1, monkeypatch)
    published(layout, keep_hours=0.0)
    compact(layout, DAYS[1])
    names = {str(p.relative_to(layout.published_index)) for p in _data_files(layout)}
    assert names == {str(Path(uri).relative_to(layout.index)) for uri in list_index(layout)}


def _data_files(layout: Layout) -> list[Path]:
    return [p for p in Path(layout.published_index).glob("ingest_date=*/*") if p.is_file()]


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


def test_publish_is_recorded_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    assert main(["publish", layout.root]) == 2
    assert "publishes no table yet" in capsys.readouterr().err
    assert main(["publish", layout.root, "--delta", "--json"]) == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["name"], state["files"], state["missing"]) == ("Delta", 1, 0)
    assert main(["publish", layout.root, "--stop"]) == 0
    append_rows(layout, *rows_of_day(1))
    open_lake(layout)
    assert sources(delta_of(layout)) == expected(0)
    assert main(["publish", layout.root]) == 0
    assert sources(delta_of(layout)) == expected(0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iceberg", "postgresql://user:secret@host/db"], "has a password"),
        (["--iceberg", "ftp://host"], "not ftp"),
        (["--delta", "--table", "a.b"], "give --iceberg too"),
        (["--iceberg", "sqlite:////x.db", "--table", "index"], "a namespace, a dot and a name"),
        (["--iceberg", "sqlite:///x.db"], "absolute path"),
        (["--delta", "--stop"], "cannot be combined"),
        (["--delta", "--keep_hours", "-1"], "at least 0"),
    ],
)
def test_wrong_usage_is_explained(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    assert main(["publish", layout.root, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path(layout.tables).exists()


@pytest.mark.slow
def test_runs_keep_the_tables_of_their_policy_in_step(
    routed: Path, copied: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    policy = tmp_path / "policy.yaml"
    section = f"publish: {{delta: true, iceberg: {{catalog: '{catalog}'}}}}\n"
    policy.write_text(f"{(routed / 'lenient.yaml').read_text()}{section}")
    source = tmp_path / "source"
    write(source, "new.dcm", dicom_bytes(image(9, (96, 64)), name="9"))
    route_into(copied, "--policy", str(policy), inputs=(str(source),))
    layout = Layout(str(copied.root))
    strict = tmp_path / "strict.yaml"
    strict.write_text((routed / "strict.yaml").read_text())
    assert _decisions(layout) == [row["destination"] for row in copied.rows()]
    command = ["reroute", layout.root, "--policy", str(strict), "--apply", "--quiet"]
    assert main(command) == 0
    assert "review" in _decisions(layout)
    assert _decisions(layout) == [row["destination"] for row in copied.rows()]
    capsys.readouterr()
    assert main(["status", layout.root]) == 0
    lines = [one for one in capsys.readouterr().out.splitlines() if "in step" in one]
    assert ["Delta" in lines[0], "Iceberg" in lines[1]] == [True, True]
    assert main(["verify", layout.root, "--deep"]) == 0


@pytest.mark.slow
def test_a_complete_run_says_that_a_table_is_behind(
    routed: Path, copied: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    section = "publish: {delta: true, iceberg: {catalog: 'sqlite:////no/such.db'}}\n"
    policy.write_text(f"{(routed / 'lenient.yaml').read_text()}{section}")
    source = write(tmp_path, "in/new.dcm", dicom_bytes(image(9, (96, 64)), name="9"))
    inputs = (str(source.parent),)
    assert route_into(copied, "--policy", str(policy), inputs=inputs, expect=1)["complete"]
    layout = Layout(str(copied.root))
    assert len(delta_of(layout).to_pyarrow_table()) == len(copied.rows())
    assert main(["verify", layout.root]) == 1
    assert "published table that cannot be read" in capsys.readouterr().out


def _decisions(layout: Layout) -> list[str]:
    """Return the destinations in both tables, which are the same, in order of source."""
    tables = delta_of(layout).to_pyarrow_table(), iceberg_of(layout).scan().to_arrow()
    delta, iceberg = ([row["destination"] for row in _sorted(table)] for table in tables)
    assert delta == iceberg
    return delta


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


def test_a_run_does_not_start_without_the_packages_of_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transforms.lake.table_settings.is_installed", lambda module: False)
    policy = write(tmp_path, "policy.yaml", b"publish: {delta: true}\n")
    source = write(tmp_path, "in/1.dcm", b"x")
    command = ["route", "--input", str(source.parent), "--lake", str(tmp_path / "lake")]
    assert main([*command, "--policy", str(policy)]) == 2
    assert "Delta tables need a package" in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()
