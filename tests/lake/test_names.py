"""Hidden and foreign files in a lake are ignored everywhere."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.receive.inbox import Inbox
from tests.conftest import Lake, Route, write
from tests.lake.rows import index_row
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake.files import list_files
from transforms.lake.index_files import list_index, read_table
from transforms.lake.layout import Layout, is_lake_name, object_name
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import to_table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ingest_date=2026-03-01/part-00000-abc.parquet", True),
        ("1.2.3~0123456789abcdef.dcm", True),
        ("part_0.parquet", True),
        (".DS_Store", False),
        ("ingest_date=2026-03-01/._part-00000-abc.parquet", False),
        ("_SUCCESS", False),
        ("_temporary/0/part-00000.parquet", False),
        ("ingest_date=2026-03-01/.spark-staging/part-00000.parquet", False),
    ],
)
def test_names(name: str, expected: bool) -> None:
    assert is_lake_name(name) is expected


def test_received_files_are_named_as_objects_of_a_lake(tmp_path: Path) -> None:
    content, uid = b"content", "1.2.3"
    with closing(Inbox(tmp_path / "in", 1 << 20).open()) as incoming:
        incoming.write(content)
        incoming.store(uid)
    (stored,) = (tmp_path / "in").iterdir()
    sha256 = hashlib.sha256(content).hexdigest()
    uri = Layout(str(tmp_path)).object_uri("spine", "1.2", "1.2", uid, sha256)
    assert stored.name == uri.rpartition("/")[2] == object_name(uid, sha256)


def test_hidden_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    folder = tmp_path / ".stream"
    for name in (
        "a.parquet",
        "b/c.parquet",
        "b/._c.parquet",
        ".x/d.parquet",
        "_temporary/e.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    listed = [found.uri for found in list_files(str(folder), ".parquet")]
    assert listed == [f"{folder}/a.parquet", f"{folder}/b/c.parquet"], "the folder itself is hidden"


def test_a_name_that_is_not_unicode_is_listed(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "\udcff.parquet").touch()
    (tmp_path / "index" / "._\udcff.parquet").touch()
    (found,) = list_files(str(tmp_path / "index"))
    assert found.uri.endswith("/index/%FF.parquet")


@pytest.mark.slow
def test_a_lake_with_foreign_files_is_read_and_verified(
    route: Route, lake: Lake, source: Path
) -> None:
    write(source, "a.dcm", dicom_bytes(image(shape=(96, 64))))
    route()
    (part,) = Path(lake.root, "index").rglob("*.parquet")
    for folder in ("index", "journal", "runs", "objects", "quarantine"):
        (Path(lake.root) / folder / "_temporary").mkdir(parents=True)
        for name in (".DS_Store", "_SUCCESS", "_temporary/0.parquet"):
            (Path(lake.root) / folder / name).write_bytes(b"foreign")
    (part.parent / f"._{part.name}").write_bytes(b"AppleDouble")
    assert route()["counts"]["unchanged"] == 1
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_a_rewrite_keeps_foreign_files_and_folders(tmp_path: Path) -> None:
    layout, day = Layout(str(tmp_path / "lake")), "2026-03-01"
    partition = Path(layout.partition(day))
    foreign = [partition / "_SUCCESS", partition / "_temporary" / "0" / "part-00000.parquet"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"foreign")
    assert rewrite(layout, day, [], [to_table([index_row("/in/a")])]) == 1
    assert [path.read_bytes() for path in foreign] == [b"foreign"] * 2
    assert len(list_index(layout)) == 1


def test_a_full_temporary_folder_is_reported_by_a_rewrite(
    tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was reported as a damaged index file, to be moved away."""
    layout, day = Layout(str(tmp_path / "lake")), "2026-03-01"
    Path(layout.partition(day)).mkdir(parents=True)
    rewrite(
        layout,
        day,
        [],
        [to_table([index_row(f"/in/{n}", sop_instance_uid=f"1.{n}") for n in range(2000)])],
    )
    (uri,) = list_index(layout)
    monkeypatch.setattr("tempfile.tempdir", str(full_disk))
    with pytest.raises(ProcessingFailure) as caught:
        rewrite(layout, day, [uri], (read_table(one) for one in [uri]))
    assert (caught.value.reason, caught.value.detail) == (
        Reason.NO_SPACE,
        "ENOSPC, temporary folder",
    )
    assert list_index(layout) == [uri]
