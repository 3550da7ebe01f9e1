"""`pipeline.api.Decider` and `pipeline.api.steps`, without a lake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from pipeline.api import Decider, UsageError
from pipeline.api.steps import DECIDED, FAILED, DecideObjects
from pipeline.cli import main
from tests.conftest import write
from tests.eager import eager_outputs
from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.core.object_ref import object_key


@pytest.fixture(scope="module")
def decider() -> Iterator[Decider]:
    with Decider(device="cpu", max_object_bytes=4 << 20) as one:
        yield one


@pytest.mark.slow
def test_a_path_bytes_and_a_data_set_are_decided_alike(
    decider: Decider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set = dataset(image(1), name="1", BodyPartExamined="CHEST")
    path = write(tmp_path, "a.dcm", to_bytes(data_set))
    of_path = decider.decide(path)
    assert main(["inspect", str(path), "--json", "--device", "cpu"]) == 0
    assert of_path.to_json() | {"file": 1} == json.loads(capsys.readouterr().out)
    assert of_path.probabilities is not None
    assert sum(of_path.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert max(of_path.probabilities, key=of_path.probabilities.__getitem__) == of_path.label
    assert of_path.confidence == pytest.approx(of_path.probabilities[str(of_path.label)])
    for other in (decider.decide(path.read_bytes()), decider.decide(data_set)):
        assert other.row.content_sha256 == of_path.row.content_sha256
        assert (other.status, other.destination, other.reason, other.explanation, other.remedy) == (
            of_path.status, of_path.destination, of_path.reason, of_path.explanation, of_path.remedy,
        )  # fmt: skip
        assert other.probabilities == of_path.probabilities


@pytest.mark.slow
def test_what_is_no_radiograph_is_decided_too(decider: Decider, tmp_path: Path) -> None:
    decision = decider.decide(b"no DICOM")
    assert (decision.status, decision.destination, decision.reason) == (
        "quarantined", "quarantine", "not_dicom",
    )  # fmt: skip
    assert (decision.probabilities, decision.label, decision.confidence) == (None, None, None)
    assert decision.remedy in decision.text()
    large = dicom_bytes(image(2, (1600, 1600)))
    assert decider.decide(large).reason == "too_large"
    with pytest.raises(FileNotFoundError):
        decider.decide(tmp_path / "missing.dcm")
    with pytest.raises(FileNotFoundError):
        decider.decide(tmp_path)


@pytest.mark.slow
def test_a_data_set_that_cannot_be_encoded_is_a_usage_error(decider: Decider) -> None:
    empty = Dataset()
    empty.PatientName = "SECRET^NAME"
    with pytest.raises(UsageError, match="TransferSyntaxUID") as error:
        decider.decide(empty)
    assert "SECRET" not in str(error.value)


def test_mistakes_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option devices: did you mean device"):
        Decider(devices="x")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="frame: 'x' is not of type int"):
        Decider(frame="x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--frame must be above 0"):
        Decider(frame=0)
    with pytest.raises(UsageError, match="--policy"):
        Decider(policy=tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="missing"):
        DecideObjects(model=str(tmp_path / "missing"))


@pytest.mark.slow
def test_the_steps_decide_in_another_pipeline(tmp_path: Path) -> None:
    good = write(tmp_path, "a.dcm", dicom_bytes(image(1)))
    bad = write(tmp_path, "b.dcm", b"no DICOM")
    missing = tmp_path / "patient.dcm"
    outputs = eager_outputs(DecideObjects(device="cpu"), map(str, [good, bad, missing]))
    rows = {row.source_uri: row for row in outputs[DECIDED]}
    assert rows[str(good)].predicted_label
    assert rows[str(bad)].reason == "not_dicom"
    (failure,) = outputs[FAILED]
    assert (failure.object_key, failure.reason) == (object_key(str(missing)), "disappeared")
    assert failure.source_uri is None
