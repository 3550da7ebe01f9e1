"""The same images from a folder, by C-STORE, by STOW-RS and from a DICOMweb server: equal decisions."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

from tests.conftest import Lake, route_into
from tests.receive.orthanc import CREDENTIALS, needs_orthanc, orthanc
from tests.receive.receivers import association, receiver
from tests.receive.test_stow import body_of
from tests.synthetic import dicom_bytes, image
from transforms.storage import dicomweb
from transforms.storage.schemes import reset_clients

EQUAL = (
    "status stage reason destination predicted_label confidence prob_abdominal prob_adult_chest "
    "prob_pediatric_chest prob_spine prob_others ood_score header_label header_agrees modality "
    "sop_class_uid series_instance_uid study_instance_uid transfer_syntax_uid rows columns bits_stored "
    "photometric_interpretation patient_age_years patient_sex view_position laterality"
).split()


@pytest.fixture
def sent(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("RG1_J2KR.dcm", "RG3_UNCR.dcm", "CT_small.dcm"):
        found = get_testdata_file(name, download=False)
        assert isinstance(found, str)
        shutil.copy(found, folder)
    for n, syntax in enumerate(["1.2.840.10008.1.2", RLELossless]):
        (folder / f"{n}.dcm").write_bytes(dicom_bytes(image(n), name=str(n), syntax=syntax))
    return sorted(folder.iterdir())


@needs_orthanc
@pytest.mark.slow
def test_every_way_in_gives_the_same_decisions(
    sent: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in zip((dicomweb.USER, dicomweb.PASSWORD), CREDENTIALS, strict=True):
        monkeypatch.setenv(variable, value)
    reset_clients()
    expected = decisions(tmp_path, "folder", str(tmp_path / "folder"))
    assert len(expected) == len(sent)
    assert len({row["destination"] for row in expected.values()}) > 2

    with receiver(tmp_path / "c-store") as running:
        data_sets = [pydicom.dcmread(path) for path in sent]
        with association(running.port, data_sets) as sender:
            assert [sender.send_c_store(ds).Status for ds in data_sets] == [0] * len(sent)
    assert decisions(tmp_path, "c-store", str(running.folder)) == expected

    with receiver(tmp_path / "stow", "--stow_port=0") as running:
        boundary = uuid.uuid4().hex
        body = body_of([("application/dicom", path.read_bytes()) for path in sent], boundary)
        response = requests.post(
            f"http://127.0.0.1:{running.stow_port}/dicom-web/studies",
            data=body,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            timeout=60,
        )
        assert response.status_code == 200
    assert decisions(tmp_path, "stow", str(running.folder)) == expected

    with orthanc(tmp_path / "orthanc") as server:
        for path in sent:
            server.store(path.read_bytes())
        uri = f"dicomweb+{server.dicomweb}"
        assert decisions(tmp_path, "dicomweb", uri, "--source=dicomweb") == expected


def decisions(folder: Path, name: str, uri: str, *options: str) -> dict[str, dict[str, Any]]:
    """Route an input, and return the decisive columns of each row by SOP Instance UID."""
    lake = Lake(folder / f"{name}.lake")
    route_into(lake, *options, inputs=(uri,))
    return {
        row["sop_instance_uid"]: {column: row[column] for column in EQUAL} for row in lake.rows()
    }
