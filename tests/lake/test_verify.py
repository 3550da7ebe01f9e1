"""Verification finds each kind of violation, and nothing in a lake without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, route_into
from tests.leftovers import name_of_dead_process
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.marker import ForeignLake, NotALake
from transforms.lake.schema import HISTORY_SCHEMA
from transforms.lake.verify import verify_lake
from transforms.lake.verify_report import VerifyReport


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of three images, the copy of one, and a file that is not DICOM."""
    folder = tmp_path_factory.mktemp("verify")
    source, root = folder / "source", folder / "lake"
    source.mkdir()
    for number in range(3):
        data = dicom_bytes(image(number, (96, 64)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    (source / "copy.dcm").write_bytes((source / "0.dcm").read_bytes())
    (source / "broken").write_bytes(b"x")
    route_into(Lake(root), "--index_shards", "1", inputs=(str(source),))
    return root


@pytest.fixture
def lake(routed: Path, tmp_path: Path) -> Lake:
    """A copy of `routed`."""
    shutil.copytree(routed, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def verify(lake: Lake, *, deep: bool = False) -> VerifyReport:
    return verify_lake(Layout(str(lake.root)), deep=deep)


def an_object(lake: Lake) -> Path:
    return min(lake.root.glob("objects/**/*.dcm"))


def index_file(lake: Lake) -> Path:
    (path,) = lake.root.glob("index/**/*.parquet")
    return path


def change_column(lake: Lake, name: str, change: Callable[[pa.Array], pa.Array]) -> None:
    """Change the values of a column of the index."""
    path = index_file(lake)
    table = pq.read_table(path, partitioning=None)
    column = table.schema.get_field_index(name)
    values = change(table[name].combine_chunks())
    pq.write_table(table.set_column(column, table.schema.field(column), values), path)


def repeat(value: object) -> Callable[[pa.Array], pa.Array]:
    """Return a change of all values of a column to one value."""
    return lambda values: pa.array([value] * len(values), values.type)


def alter(lake: Lake) -> None:
    path = an_object(lake)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shorten(lake: Lake) -> None:
    an_object(lake).write_bytes(an_object(lake).read_bytes()[:-1])


def add_object(lake: Lake) -> None:
    (an_object(lake).parent / "orphan.dcm").write_bytes(b"x")


def repeat_rows(lake: Lake) -> None:
    path = index_file(lake)
    path.with_name("part-again.parquet").write_bytes(path.read_bytes())


def drop_column(lake: Lake) -> None:
    path = index_file(lake)
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["reason"]), path)


def unbalance(lake: Lake) -> None:
    (path,) = lake.root.glob("runs/*.json")
    summary = json.loads(path.read_text())
    summary["counts"]["discovered"] += 1
    path.write_text(json.dumps(summary))


def drop_rows(lake: Lake) -> None:
    """Drop the rows of duplicates, whose objects have other rows."""
    path = index_file(lake)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.filter(pc.not_equal(table["status"], "duplicate")), path)


def supersede_without_successor(lake: Lake) -> None:
    """Write a row into the history whose version of a source has no current row."""
    table = pq.read_table(index_file(lake), partitioning=None).slice(0, 1)
    columns = {f.name: table[f.name].to_pylist() for f in table.schema}
    columns |= {"source_version": ["of-old"], "superseded_at": [0], "superseded_by": ["run"]}
    path = lake.root / "history" / index_file(lake).parent.name / "part-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pydict(columns, schema=HISTORY_SCHEMA), path)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True])
def test_a_routed_lake_has_no_violations(lake: Lake, deep: bool) -> None:
    found = verify(lake, deep=deep)
    assert found.holds
    assert found.format == 2
    assert (found.rows, found.superseded_rows, found.objects, found.runs) == (5, 0, 4, 1)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda lake: an_object(lake).unlink(), "missing object"),
        (shorten, "object of another size"),
        (add_object, "object without a row"),
        (lambda lake: index_file(lake).unlink(), "object without a row"),
        (repeat_rows, "second row for one source"),
        (repeat_rows, "same content routed twice in a run"),
        (lambda lake: index_file(lake).write_bytes(b"PAR1 no more"), "unreadable index file"),
        (drop_column, "columns missing in an index file"),
        (drop_column, "row without stage or reason"),
        (unbalance, "equation does not balance"),
        (drop_rows, "rows of a run in the index differ from its summary"),
        (supersede_without_successor, "superseded row without a current one"),
    ],
)
def test_each_violation_is_found(lake: Lake, damage: Callable[[Lake], object], kind: str) -> None:
    damage(lake)
    assert kind in {violation.kind for violation in verify(lake).violations}


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("destination", "elsewhere", "object_uri does not match its row"),
        ("status", "duplicate", "duplicate without a first"),
        ("status", "lost", "unknown status"),
        ("sop_instance_uid", "1.2", "conflict not flagged"),
        ("reason", "", "row without stage or reason"),
        ("object_uri", None, "row without an object"),
        ("object_uri", "objects/none.dcm", "missing object"),
    ],
)
def test_each_wrong_column_is_found(lake: Lake, column: str, value: object, kind: str) -> None:
    change_column(lake, column, repeat(value))
    assert kind in {violation.kind for violation in verify(lake).violations}


def test_altered_bytes_are_found_by_reading_them(lake: Lake) -> None:
    alter(lake)
    assert verify(lake).holds
    (violation,) = verify(lake, deep=True).violations
    assert violation.kind == "object with other bytes"
    assert violation.where == str(an_object(lake))


def test_the_command_names_what_is_missing(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    gone = an_object(lake)
    name = gone.relative_to(lake.root).as_posix()
    keys = [r["object_key"] for r in lake.rows() if r["object_uri"] == name]
    gone.unlink()
    assert main(["verify", str(lake.root)]) == 1
    out = capsys.readouterr().out
    for key in keys:
        assert f"missing object: {key} {gone}" in out
    assert f"FAILED, {len(keys)} violations" in out
    assert not [row for row in lake.rows() if row["source_uri"] in out]


@pytest.mark.slow
def test_a_conflict_is_listed_and_is_not_a_violation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, root = tmp_path / "source", tmp_path / "lake"
    source.mkdir()
    for number in range(2):
        (source / f"{number}.dcm").write_bytes(dicom_bytes(image(number, (96, 64))))
    route_into(Lake(root), inputs=(str(source),))
    assert main(["verify", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"]
    assert len(found["conflicts"]) == 1


def test_a_lake_is_verified_through_a_link(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(lake.root)
    assert verify_lake(Layout(str(tmp_path / "alias")), deep=True).holds


def test_an_empty_folder_is_not_a_lake(tmp_path: Path) -> None:
    with pytest.raises(NotALake, match=r"lake\.json"):
        verify_lake(Layout(str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_lake_whose_marker_is_damaged_is_refused(lake: Lake) -> None:
    (lake.root / "lake.json").write_text("{")
    with pytest.raises(ForeignLake, match="damaged"):
        verify(lake)


@pytest.mark.slow
def test_the_name_of_a_missing_source_that_was_only_indexed_is_not_printed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = tmp_path / "indexed", source / "DOE^JANE.dcm"
    path.write_bytes(dicom_bytes(image(shape=(96, 64))))
    route_into(Lake(root), "--placement", "index_only", inputs=(str(source),))
    path.unlink()
    assert main(["verify", str(root)]) == 1
    out = capsys.readouterr().out
    assert "missing object" in out
    assert "DOE" not in out


@pytest.mark.slow
def test_temporary_files_are_reported_and_removed_by_the_next_run(
    route: Route, lake: Lake, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lake.root / ".tmp" / name_of_dead_process()).write_bytes(b"x")
    assert main(["verify", str(lake.root)]) == 0
    assert "1 temporary files" in capsys.readouterr().out
    (source / "one.dcm").write_bytes(dicom_bytes(image(shape=(96, 64)), name="9"))
    route()
    assert list((lake.root / ".tmp").iterdir()) == []


def test_a_database_without_memory_is_an_error_with_a_remedy(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transforms.lake.databases.MEMORY_LIMIT", "100KB")
    assert main(["verify", str(lake.root)]) == 1
    error = capsys.readouterr().err
    assert "temporary database has failed (OutOfMemoryException); give it more memory" in error
    assert "Traceback" not in error
