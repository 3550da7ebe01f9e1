"""Hidden and foreign files in a lake are ignored everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, write
from tests.synthetic import dicom_bytes, image
from transforms.lake.files import list_files
from transforms.lake.layout import is_lake_name


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


def test_a_lake_with_foreign_files_is_read_and_verified(route, lake: Lake, source: Path) -> None:
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
