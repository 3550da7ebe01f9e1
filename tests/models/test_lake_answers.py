"""Answers in a lake calibrate a bundle, and are data to train and evaluate on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import read_info
from models.training.calibrate_from_labels import CalibratedOnLabels, calibrate_from_labels
from models.training.data.dataset import read_dataset
from models.training.data.images import DatasetError
from pipeline.cli import main
from tests.conftest import Lake, counts, route_into
from tests.models.tiny_bundles import SHAPE, SIDE, write_bundle
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS
from transforms.core.reasons import Status
from transforms.lake.index_files import read_index, read_matching
from transforms.lake.labels import (
    NOT_RADIOGRAPH,
    UNDO,
    UNREADABLE,
    Label,
    append_labels,
    new_label,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import SCHEMA, IndexRow, from_table

pytestmark = pytest.mark.slow

PATIENTS, IMAGES_EACH = 20, 3
IMAGES = PATIENTS * IMAGES_EACH
TINY = ("--architecture", "test_efficientnet", "--init", "none", "--input_size", str(SIDE),
        "--epochs", "1", "--batch_size", "8", "--workers", "0", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `bundle` and the `lake` of its run, in which nobody has answered."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "source").mkdir()
    for number in range(IMAGES):
        patient = number // IMAGES_EACH
        data = dicom_bytes(
            image(number, SHAPE),
            name=str(number),
            PatientID=f"P{patient}",
            StudyInstanceUID=f"1.2.{number}",
            PatientAge="050Y",
        )
        (folder / "source" / f"{number}.dcm").write_bytes(data)
    (folder / "source" / "copy.dcm").write_bytes((folder / "source" / "0.dcm").read_bytes())
    (folder / "key").write_bytes(b"a key of a patient, not a secret")
    options = ["--model", str(write_bundle(folder / "bundle")), "--device", "cpu"]
    options += ["--patient_key_file", str(folder / "key")]
    found = counts(route_into(Lake(folder / "lake"), *options, inputs=(str(folder / "source"),)))
    assert found["duplicate"] == 1
    assert found["routed"] > 20
    assert found["review"] > 5
    return folder


@pytest.fixture
def lake(routed: Path, tmp_path: Path) -> Path:
    """A copy of the lake."""
    return Path(shutil.copytree(routed / "lake", tmp_path / "lake"))


def rows_of(lake: Path) -> list[IndexRow]:
    """The rows of the images of a lake, in order of source."""
    layout = Layout(str(lake))
    rows = read_index(
        layout,
        lambda files: [
            row
            for uri in files
            for table in read_matching(uri, SCHEMA.names, {})
            for row in from_table(table, "2026-01-01")
        ],
    )
    return sorted((r for r in rows if r.status != Status.DUPLICATE), key=lambda r: r.source_uri)


def answer(lake: Path, reviewer: Callable[[int, IndexRow], str | None]) -> list[Label]:
    """Store what a simulated reviewer answers; None means that the image is skipped."""
    answers = [(row, reviewer(number, row)) for number, row in enumerate(rows_of(lake))]
    labels = [new_label(row, text, "ann", 10**15) for row, text in answers if text is not None]
    append_labels(Layout(str(lake)), labels)
    return labels


def mostly_right(number: int, row: IndexRow) -> str:
    """Every seventh image is another than the model says; confident ones are never."""
    wrong = number % 7 == 0 and (row.confidence or 0) < 0.95
    return "spine" if wrong else str(row.predicted_label)


def calibrate(bundle: Path, lake: Path, output: Path, min_answers: int = 2) -> CalibratedOnLabels:
    return calibrate_from_labels(str(bundle), Layout(str(lake)), output, 0.1, min_answers)


def test_few_answers_change_nothing(
    routed: Path, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "--model", str(routed / "bundle"), "--output", str(tmp_path / "new")]
    assert main(command) == 2
    assert "give one of --data and --from_labels" in capsys.readouterr().err
    command += ["--device", "cpu", "--from_labels", str(lake)]
    assert main([*command, "--ensemble", str(routed / "bundle")]) == 2
    assert "--from_labels takes no --ensemble" in capsys.readouterr().err
    assert main(command) == 1
    found = capsys.readouterr()
    assert "images with an answer: 0" in found.out
    assert "error: too few answers: nothing is changed" in found.err
    answer(lake, lambda number, row: "spine" if number < 5 else None)
    assert main(command) == 1
    found = capsys.readouterr()
    assert "images with an answer: 5; used: 5" in found.out
    assert "of 20 answers about routed images" in found.out
    assert "too few answers" in found.err
    assert not (tmp_path / "new").exists()


def test_answers_calibrate_a_bundle_by_stored_predictions(
    routed: Path, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(lake, mostly_right)
    objects = list(lake.glob("objects/**/*.dcm"))
    assert objects
    for path in objects:
        path.unlink()  # nothing but the index and the labels is read
    command = ["calibrate", "--model", str(routed / "bundle"), "--output", str(tmp_path / "new")]
    command += ["--from_labels", str(lake), "--min_answers", "2", "--target_error", "0.1"]
    assert main([*command, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"images with an answer: {IMAGES}; used: {IMAGES}, classified again: 0" in out
    old, new = read_info(str(routed / "bundle")), read_info(str(tmp_path / "new"))
    assert f"{new.model_id} written to" in out
    assert new.model_id != old.model_id
    assert (new.weights_sha256, new.ood_threshold) == (old.weights_sha256, old.ood_threshold)
    assert new.thresholds != old.thresholds
    assert new.calibration["previous_model"] == old.model_id
    assert new.calibration["represented"] == 1
    assert new.calibration["images"] == IMAGES
    assert not new.calibration["target_proved"]
    assert "is not proved" in out
    kept = new.calibration["kept"]
    assert all(new.thresholds[label] == old.thresholds[label] for label in kept)
    assert len(kept) < len(LABELS)


def test_images_that_another_model_decided_are_classified_again(
    routed: Path, lake: Path, tmp_path: Path
) -> None:
    """A bundle of the same weights and other thresholds has another id, and the same predictions."""
    labels = answer(lake, mostly_right)
    other = write_bundle(tmp_path / "other", threshold=0.61)
    stored = calibrate(routed / "bundle", lake, tmp_path / "by stored")
    again = calibrate(other, lake, tmp_path / "classified")
    assert (stored.counts.classified, again.counts.classified) == (0, IMAGES)
    assert stored.refit
    assert again.refit
    assert again.refit.temperature == pytest.approx(stored.refit.temperature, rel=0.02)
    for label in again.refit.changeable:
        assert again.refit.thresholds[label] == pytest.approx(
            stored.refit.thresholds[label], abs=0.02
        )
    missing = next(row for row in rows_of(lake) if row.content_sha256 == labels[0].content_sha256)
    (lake / str(missing.object_uri)).write_bytes(b"damaged")
    less = calibrate(other, lake, tmp_path / "damaged")
    assert less.counts.failed == [missing.object_key]
    assert less.counts.used == IMAGES - 1


@pytest.mark.parametrize(("target_error", "kept"), [(0.1, {"adult_chest": 0.55}), (0.9, {})])
def test_age_thresholds_are_kept_with_the_temperature_that_they_were_chosen_for(
    lake: Path, tmp_path: Path, target_error: float, kept: dict[str, float]
) -> None:
    answer(lake, mostly_right)
    bundle = write_bundle(tmp_path / "bundle", age_thresholds={"adult_chest": 0.55})
    layout = Layout(str(lake))
    found = calibrate_from_labels(str(bundle), layout, tmp_path / "new", target_error, 2)
    assert found.info is not None
    assert found.info.age_thresholds == kept
    assert (found.info.temperature == found.present.temperature) == bool(kept)


def test_a_raised_threshold_is_valid_with_an_age_too(lake: Path, tmp_path: Path) -> None:
    """Answers say that every prediction is wrong, so that nothing is proved."""
    answer(lake, lambda _, row: "others" if row.predicted_label == "spine" else "spine")
    ages = {"adult_chest": 0.55, "pediatric_chest": 0.55}
    bundle = write_bundle(tmp_path / "bundle", age_thresholds=ages)
    found = calibrate(bundle, lake, tmp_path / "new")
    assert found.info is not None
    assert found.info.temperature == found.present.temperature
    raised = found.info.thresholds["adult_chest"]
    assert raised > found.present.thresholds["adult_chest"]
    assert found.info.age_thresholds["adult_chest"] == raised


def test_answers_that_name_no_body_part(routed: Path, lake: Path, tmp_path: Path) -> None:
    def reviewer(number: int, row: IndexRow) -> str:
        return (NOT_RADIOGRAPH, UNREADABLE, "others")[min(number, 2)]

    labels = answer(lake, reviewer)
    undone, doubted = labels[2], labels[3]
    rows = {row.content_sha256: row for row in rows_of(lake)}
    undo = new_label(rows[undone.content_sha256], UNDO, "ann", 10**15 + 1, retracts=undone.label_id)
    doubt = new_label(rows[doubted.content_sha256], "spine", "bob", 10**15 + 2)
    append_labels(Layout(str(lake)), [undo, doubt])
    found = calibrate(routed / "bundle", lake, tmp_path / "new").counts
    assert (found.answers, found.used) == (IMAGES - 1, IMAGES - 2)
    assert (found.unreadable, found.disagreements) == (1, 1)
    data = read_dataset(lake)
    assert len(data) == IMAGES - 3
    assert sorted(one.label for one in data) == ["others"] * (IMAGES - 4) + ["spine"]


def test_answers_are_a_data_set_in_groups_of_patients(lake: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no reviewer has named a body part yet; start .*review"
    ):
        read_dataset(lake)
    labels = answer(lake, mostly_right)
    found = read_dataset(lake)
    assert len(found) == IMAGES
    assert len({one.group for one in found}) == PATIENTS
    assert {one.split for one in found} == {"train", "val", "test"}
    assert {one.source for one in found} == {"lake"}
    assert {one.age_years for one in found} == {50}
    keys = {row.patient_key for row in rows_of(lake)}
    assert {one.group for one in found} == keys
    by_content = {label.content_sha256: label.answer for label in labels}
    for row in rows_of(lake):
        (one,) = [f for f in found if f.path == (lake / str(row.object_uri)).resolve()]
        assert one.label == by_content[str(row.content_sha256)]
    gone = rows_of(lake)[0]
    (lake / str(gone.object_uri)).unlink()
    with pytest.raises(DatasetError, match=f"object {gone.object_key} is not a local file"):
        read_dataset(lake)


@pytest.mark.training
def test_answers_are_trained_and_evaluated_on(
    folders: Path, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(lake, lambda number, row: LABELS[(number // IMAGES_EACH) % len(LABELS)])
    bundle, both = tmp_path / "bundle", tmp_path / "both"
    assert main(["train", "--data", str(lake), "--output", str(bundle), *TINY]) == 0
    train = [one for one in read_dataset(lake) if one.split == "train"]
    (source,) = read_info(str(bundle)).training["sources"]
    assert source == {"source": "lake", "license": "", "images": len(train)}
    more = ["--data", str(folders), "--more_data", str(lake), "--output", str(both), *TINY]
    assert main(["train", *more]) == 0
    training = read_info(str(both)).training
    assert training["more_data"] == ["lake"]
    assert {"source": "lake", "license": "", "images": IMAGES} in training["sources"]
    capsys.readouterr()
    evaluate = ["evaluate", "--model", str(bundle), "--data", str(lake), "--split", "val", "--json"]
    assert main([*evaluate, "--output", str(tmp_path / "card"), "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    val = [one for one in read_dataset(lake) if one.split == "val"]
    assert figures["figures"]["images"] == len(val)
    assert figures["with_age"]["images_with_age"] == len(val)
