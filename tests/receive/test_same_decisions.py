"""The same images have the same decisions, by whichever way they come in."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into, write
from tests.receive.orthanc import CREDENTIALS, needs_orthanc, orthanc
from tests.receive.receivers import association, receiver
from tests.receive.test_stow import body_of
from tests.synthetic import dicom_bytes, image
from transforms.storage import dicomweb_sessions
from transforms.storage.schemes import reset_clients

DECISION: Final = (
    "status stage reason destination predicted_label confidence prob_abdominal prob_adult_chest "
    "prob_pediatric_chest prob_spine prob_others ood_score header_label header_agrees modality "
    "sop_class_uid series_instance_uid study_instance_uid transfer_syntax_uid rows columns bits_stored "
    "photometric_interpretation patient_age_years patient_sex view_position laterality"
).split()
CONTENT: Final = ("content_sha256", "source_size_bytes", "object_uri")
"""Columns that differ after C-STORE, where the receiver writes the file meta information."""
Decisions = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of radiographs and a CT image in several transfer syntaxes, some below folders."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("RG3_UNCR.dcm", "CT_small.dcm"):
        found = get_testdata_file(name, download=False)
        assert isinstance(found, str)
        shutil.copy(found, folder)
    for n, syntax in enumerate(["1.2.840.10008.1.2", RLELossless]):
        data = dicom_bytes(image(n, (160, 128)), name=str(n), syntax=syntax)
        write(folder, f"PA000001/IM{n:06}", data)
    return folder


@pytest.fixture(scope="module")
def from_folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Decisions:
    lake = Lake(tmp_path_factory.mktemp("folder") / "lake")
    expected = decisions(lake, str(images), *CONTENT)
    assert len(expected) == 4
    assert len({row["destination"] for row in expected.values()}) > 1
    return expected


def decisions(lake: Lake, uri: str, *columns: str, options: tuple[str, ...] = ()) -> Decisions:
    """Route an input, and return the decision and more columns of each row by SOP Instance UID."""
    route_into(lake, *options, inputs=(uri,))
    wanted = (*DECISION, *columns)
    return {row["sop_instance_uid"]: {name: row[name] for name in wanted} for row in lake.rows()}


def files_of(images: Path) -> dict[str, bytes]:
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    return {str(path.relative_to(images)): path.read_bytes() for path in paths}


def as_zip(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def as_tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def as_tar_gz(files: dict[str, bytes]) -> bytes:
    return gzip.compress(as_tar(files))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pack"),
    [("x.zip", as_zip), ("x.tar", as_tar), ("X.TGZ", as_tar_gz)],
    ids=["zip", "tar", "tar.gz"],
)
def test_an_archive(
    images: Path,
    from_folder: Decisions,
    lake: Lake,
    tmp_path: Path,
    name: str,
    pack: Callable[[dict[str, bytes]], bytes],
) -> None:
    files = files_of(images)
    path = write(tmp_path, name, pack({**files, "DICOMDIR": b"list", "__MACOSX/._a": b"Finder"}))
    assert decisions(lake, str(path), *CONTENT) == from_folder
    assert {row["source_uri"] for row in lake.rows()} == {f"{path}!/{one}" for one in files}
    again = route_into(lake, inputs=(str(path),))
    assert counts(again) == {"unchanged": len(files)}
    assert again["skipped"] == {"excluded": 1, "media_directory": 1}
    assert violations(lake.root) == []
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
def test_an_inventory(images: Path, from_folder: Decisions, lake: Lake, tmp_path: Path) -> None:
    rows = "".join(f'b,"{name}"\n' for name in files_of(images))
    inventory = write(tmp_path, "inventory.csv", f"Bucket,Key\n{rows}".encode())
    options = ("--source", "manifest", "--inventory_root", str(images))
    assert decisions(lake, str(inventory), *CONTENT, options=options) == from_folder


@pytest.mark.slow
def test_c_store(images: Path, from_folder: Decisions, lake: Lake, tmp_path: Path) -> None:
    sent = [pydicom.dcmread(path) for path in images.rglob("*") if path.is_file()]
    with receiver(tmp_path / "in") as running, association(running.port, sent) as sender:
        assert [sender.send_c_store(ds).Status for ds in sent] == [0] * len(sent)
    expected = {uid: {name: row[name] for name in DECISION} for uid, row in from_folder.items()}
    assert decisions(lake, str(running.folder)) == expected


@pytest.mark.slow
def test_stow_rs(images: Path, from_folder: Decisions, lake: Lake, tmp_path: Path) -> None:
    boundary = uuid.uuid4().hex
    parts = [("application/dicom", data) for data in files_of(images).values()]
    with receiver(tmp_path / "in", "--stow_port=0") as running:
        response = requests.post(
            f"http://127.0.0.1:{running.stow_port}/dicom-web/studies",
            data=body_of(parts, boundary),
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            timeout=60,
        )
        assert response.status_code == 200
    assert decisions(lake, str(running.folder), *CONTENT) == from_folder


@pytest.mark.slow
@needs_orthanc
def test_dicomweb(
    images: Path,
    from_folder: Decisions,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in zip(
        (dicomweb_sessions.USER, dicomweb_sessions.PASSWORD), CREDENTIALS, strict=True
    ):
        monkeypatch.setenv(variable, value)
    reset_clients()
    with orthanc(tmp_path / "orthanc") as server:
        for data in files_of(images).values():
            server.store(data)
        found = decisions(
            lake, f"dicomweb+{server.dicomweb}", *CONTENT, options=("--source=dicomweb",)
        )
    assert found == from_folder
