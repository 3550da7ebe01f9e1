"""A small lake of three patients that the tests of this folder export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, route_into
from tests.lake.conftest import LENIENT
from tests.synthetic import dicom_bytes, image

CANARIES = ("SECRET^NAME", "SECRETID", "19630405", "Secret Street", "secret words")
"""What identifies the patients of the lake."""
Export = Callable[..., Path]
"""The fixture `export`."""


@pytest.fixture(scope="package")
def exported_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with ten images of three patients, and an image too small to be decided."""
    folder = tmp_path_factory.mktemp("exported")
    source = folder / "source"
    source.mkdir()
    for number in range(10):
        data = dicom_bytes(
            image(number, (96, 64)),
            name=str(number),
            PatientID=f"SECRETID{number % 3}",
            PatientBirthDate="19630405",
            PatientAddress="Secret Street 1",
            ImageComments="secret words",
            StudyInstanceUID=f"1.2.3.{number % 4}",
            SeriesInstanceUID=f"1.2.3.{number % 4}.{number % 2}",
            PatientAge="095Y" if number == 0 else "050Y",
            Manufacturer="=cmd|ACME",
        )
        (source / f"SECRET^NAME {number}.dcm").write_bytes(data)
    (source / "small.dcm").write_bytes(dicom_bytes(image(20, (8, 8)), name="20"))
    (folder / "policy.yaml").write_text(LENIENT + "thumbnails: all\n")
    (folder / "key").write_bytes(b"k" * 32)
    lake = Lake(folder / "lake")
    options = ("--policy", str(folder / "policy.yaml"), "--patient_key_file", str(folder / "key"))
    route_into(lake, *options, inputs=(str(source),))
    return lake


@pytest.fixture
def export(exported_lake: Lake, tmp_path: Path) -> Export:
    """Run `dicom-router export` into a folder of this test; returns the folder."""

    def run(*options: str, name: str = "out", expect: int = 0) -> Path:
        out = tmp_path / name
        assert main(["export", str(exported_lake.root), str(out), *options]) == expect
        return out

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
