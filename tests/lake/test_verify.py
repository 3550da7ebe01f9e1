"""The auditor sees each kind of breach, and nothing where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import Lake, route_into
from tests.leftovers import name_of_dead_process
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source and the lake that it was routed into; for `whole` to copy."""
    folder = tmp_path_factory.mktemp("routed")
    source = folder / "source"
    source.mkdir()
    for number in range(3):
        data = dicom_bytes(image(number, (96, 64)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    (source / "broken").write_bytes(b"x")
    route_into(Lake(folder / "lake"), "--index_shards", "1", inputs=(str(source),))
    return folder


@pytest.fixture
def whole(routed: Path, lake: Lake, source: Path) -> Lake:
    """A lake of one run, and its source in `source`."""
    shutil.copytree(routed / "source", source, dirs_exist_ok=True)
    shutil.copytree(routed / "lake", lake.root)
    return lake


def an_object(lake: Lake) -> Path:
    return min(lake.root.glob("objects/**/*.dcm"))


def index_file(lake: Lake) -> Path:
    (path,) = lake.root.glob("index/**/*.parquet")
    return path


def alter(lake: Lake) -> None:
    path = an_object(lake)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shorten(lake: Lake) -> None:
    an_object(lake).write_bytes(an_object(lake).read_bytes()[:-1])


def add_file(lake: Lake) -> None:
    (an_object(lake).parent / "stray.dcm").write_bytes(b"x")


def move_object(lake: Lake) -> None:
    """Swap the labels of the whole lake: objects and rows no longer say the same."""
    path = index_file(lake)
    table = pq.read_table(path, partitioning=None)
    labels = ["elsewhere"] * len(table)
    column = table.schema.get_field_index("destination")
    pq.write_table(table.set_column(column, table.schema.field(column), [labels]), path)


def forget_firsts(lake: Lake) -> None:
    change_status(lake, "duplicate")


def unsay_conflict(lake: Lake) -> None:
    """Give all rows one UID, and no conflict."""
    path = index_file(lake)
    rows = pq.read_table(path, partitioning=None)
    column = rows.schema.get_field_index("sop_instance_uid")
    pq.write_table(rows.set_column(column, rows.schema.field(column), [["1.2"] * len(rows)]), path)


def change_status(lake: Lake, status: str) -> None:
    path = index_file(lake)
    table = pq.read_table(path, partitioning=None)
    column = table.schema.get_field_index("status")
    pq.write_table(
        table.set_column(column, table.schema.field(column), [[status] * len(table)]), path
    )


def remove_index(lake: Lake) -> None:
    index_file(lake).unlink()


def repeat_rows(lake: Lake) -> None:
    path = index_file(lake)
    path.with_name("part-again.parquet").write_bytes(path.read_bytes())


def damage_index(lake: Lake) -> None:
    index_file(lake).write_bytes(b"PAR1 no more")


def drop_column(lake: Lake) -> None:
    path = index_file(lake)
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["reason"]), path)


def unbalance(lake: Lake) -> None:
    (path,) = lake.root.glob("runs/*.json")
    summary = json.loads(path.read_text())
    summary["counts"]["discovered"] += 1
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_lake_holds(whole: Lake, deep: bool) -> None:
    found = verify_lake(Layout(str(whole.root)), deep=deep)
    assert found.holds
    assert (found.rows, found.objects, found.runs) == (4, 4, 1)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda lake: an_object(lake).unlink(), "missing object"),
        (shorten, "object of another size"),
        (add_file, "object without a row"),
        (move_object, "object stands where its row does not say"),
        (forget_firsts, "duplicate without a first"),
        (unsay_conflict, "conflict not said"),
        (remove_index, "object without a row"),
        (repeat_rows, "second row for one source"),
        (damage_index, "unreadable index file"),
        (drop_column, "columns missing in an index file"),
        (unbalance, "equation does not balance"),
    ],
)
def test_each_breach_is_found(whole: Lake, harm: Callable[[Lake], None], kind: str) -> None:
    harm(whole)
    found = verify_lake(Layout(str(whole.root)))
    assert kind in {violation.kind for violation in found.violations}


def test_altered_bytes_are_found_by_reading_them(whole: Lake) -> None:
    alter(whole)
    assert verify_lake(Layout(str(whole.root))).holds
    (violation,) = verify_lake(Layout(str(whole.root)), deep=True).violations
    assert violation.kind == "object with other bytes"
    assert violation.where == str(an_object(whole))


def test_the_command_names_what_is_missing(whole: Lake, capsys) -> None:
    gone = an_object(whole)
    (row,) = [r for r in whole.rows() if r["object_uri"] == str(gone)]
    gone.unlink()
    capsys.readouterr()
    assert main(["verify", str(whole.root)]) == 1
    out = capsys.readouterr().out
    assert f"missing object: {row['object_key']} {gone}" in out
    assert "1 breaches" in out
    assert row["source_uri"] not in out


def test_a_conflict_is_listed_and_no_breach(route, lake: Lake, source: Path, capsys) -> None:
    for number in range(2):
        (source / f"{number}.dcm").write_bytes(dicom_bytes(image(number, (96, 64))))
    route()
    assert main(["verify", str(lake.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["conflicts"]) == 1


def test_a_lake_seen_through_a_link_holds(whole: Lake, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(whole.root)
    assert verify_lake(Layout(str(tmp_path / "alias")), deep=True).holds


def test_an_empty_folder_is_no_lake(tmp_path: Path) -> None:
    assert not verify_lake(Layout(str(tmp_path))).holds


def test_a_source_name_is_not_shown_when_an_indexed_source_is_gone(
    route, lake: Lake, source: Path, capsys
) -> None:
    path = source / "DOE^JANE.dcm"
    path.write_bytes(dicom_bytes(image(shape=(96, 64))))
    route("--placement", "index_only")
    path.unlink()
    assert main(["verify", str(lake.root)]) == 1
    out = capsys.readouterr().out
    assert "missing object" in out
    assert "DOE" not in out


def test_temporary_files_are_told_and_swept_by_the_next_run(route, whole: Lake, capsys) -> None:
    (whole.root / ".tmp" / name_of_dead_process()).write_bytes(b"x")
    assert main(["verify", str(whole.root)]) == 0
    assert "1 temporary files" in capsys.readouterr().out
    route()
    assert list((whole.root / ".tmp").iterdir()) == []
