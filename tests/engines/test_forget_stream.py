"""A patient is forgotten while a stream runs, and copies arrive again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, counts, write
from tests.engines.servers import PRISM
from tests.engines.streams import FAST, accounted, assert_ok, start_stream
from tests.engines.test_prism_stream import ON_PRISM
from tests.erasures import KEY, OTHER, PATIENT, files_with, identifiers
from tests.synthetic import dicom_bytes, image
from transforms.core.patient_key import patient_key_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.stream,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not PRISM.exists(), reason="Prism is not built: install Go and run 'make servers'"
    ),
]


def drop(folder: Path, name: str, patient: str, number: int, size: int | None = None) -> None:
    """Put an object of a patient, or its first bytes, into the watched folder by an atomic rename."""
    data = dicom_bytes(
        image(number, (64, 48)),
        name=str(number),
        PatientID=patient,
        StudyInstanceUID=f"1.2.77.{number}",
    )
    write(folder.parent, name, data[:size]).rename(folder / name)


def test_a_patient_is_forgotten_between_two_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, folder, key_file = tmp_path / "lake", tmp_path / "incoming", tmp_path / "key"
    folder.mkdir()
    key_file.write_bytes(KEY)
    options = ["--source=watch", "--input", str(folder), *ON_PRISM, *FAST, "--index_interval=1"]
    options += ["--patient_key_file", str(key_file)]
    forget = ["forget", str(lake), "--patient_key", patient_key_of(PATIENT, KEY)]
    forget += ["--patient_key_file", str(key_file), "--apply", "--ordered_by", "me"]
    drop(folder, "1.dcm", PATIENT, 1)
    drop(folder, "2.dcm", OTHER, 2)
    drop(folder, "3.dcm", PATIENT, 3, size=2000)
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(3)
        assert main([*forget, "--lock_timeout", "0.5"]) == 1
        assert "another run is still writing to this lake" in capsys.readouterr().err
        assert len(Lake(lake).rows()) == 3
        with subprocess.Popen(
            [sys.executable, "-m", "pipeline", *forget], stderr=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stderr is not None
            assert "legal holds of a policy" in waiting.stderr.readline()
            assert "waiting for it to finish" in waiting.stderr.readline()
            drop(folder, "4.dcm", PATIENT, 4)
            stream.wait_for_rows(4)
            names = identifiers(lake, patient_key_of(PATIENT, KEY))
            assert accounted(stream.stop()) == 4
        assert waiting.returncode == 0
    assert [row["source_uri"] for row in Lake(lake).rows()] == [str(folder / "2.dcm")]
    assert files_with(lake, [*names, PATIENT]) == []
    drop(folder, "copy.dcm", PATIENT, 1)
    drop(folder, "other name.dcm", PATIENT, 5)
    drop(folder, "truncated.dcm", PATIENT, 6, size=2000)
    with start_stream(lake, *options) as stream:
        stream.wait_until(lambda: len(list(lake.glob("forgotten/sources/*"))) == 3)
        drop(folder, "7.dcm", OTHER, 7)
        stream.wait_for_rows(2)
        summary = stream.stop()
    assert counts(summary)["forgotten"] == 3
    assert accounted(summary) == 4
    assert files_with(lake, [*names, PATIENT]) == []
    assert_ok(lake)
