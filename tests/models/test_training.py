"""`train` and `evaluate` are real: a data set of a user's own becomes a bundle that routes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bundle import read_info
from models.training.augment import augment
from models.training.calibrate import calibrate, expected_calibration_error, fit_temperature
from models.training.films import FilmsError, read_films
from pipeline.cli import main
from tests.synthetic import dicom_bytes, film
from transforms.labels import LABELS

TINY = ("--architecture", "test_efficientnet", "--init", "none", "--input_size", "32",
        "--passes", "1", "--batch_size", "8", "--workers", "0", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per label, films as PNG, JPEG and DICOM, labels told apart by brightness."""
    root = tmp_path_factory.mktemp("films")
    for index, label in enumerate(LABELS):
        (root / label).mkdir()
        for number in range(12):
            pixels = film(100 * index + number, (80, 64)) >> 4
            if number % 3 == 0:
                Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.png")
            elif number % 3 == 1:
                Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.jpg")
            else:
                (root / label / f"{number}.dcm").write_bytes(dicom_bytes(pixels))
    return root


def test_folders_become_a_bundle_that_routes(folders: Path, tmp_path: Path, capsys) -> None:
    bundle = tmp_path / "bundle"
    assert main(["train", "--data", str(folders), "--output", str(bundle), *TINY]) == 0
    info = read_info(str(bundle))
    assert info.architecture == "test_efficientnet"
    assert set(info.thresholds) == set(LABELS)
    (line,) = (bundle / "training.jsonl").read_text().splitlines()
    assert json.loads(line)["pass"] == 1
    capsys.readouterr()
    arguments = ["evaluate", "--model", str(bundle), "--data", str(folders), "--split", "val"]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["films"] == sum(f.split == "val" for f in read_films(folders))
    assert sum(map(sum, figures["confusion"])) == figures["films"]
    assert figures["macro_f1"] == info.metrics["val"]["macro_f1"]
    assert main(arguments) == 0
    assert "macro" in capsys.readouterr().out
    strict = tmp_path / "strict"
    again = ["calibrate", "--model", str(bundle), "--data", str(folders), "--output", str(strict)]
    assert main([*again, "--target_error", "0"]) == 0
    assert "threshold" in capsys.readouterr().out
    assert read_info(str(strict)).weights_sha256 == info.weights_sha256
    assert all(
        of["wrong"] == 0 or not of["target_met"]
        for of in read_info(str(strict)).calibration["labels"].values()
    )
    source = str(folders / LABELS[0] / "2.dcm")
    lake = str(tmp_path / "lake")
    assert main(["route", "--input", source, "--lake", lake, "--model", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == info.model_id


def test_a_second_model_decides_again_only_when_asked(
    folders: Path, route, lake, source: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    assert main(["train", "--data", str(folders), "--output", str(bundle), *TINY]) == 0
    (source / "a.dcm").write_bytes(dicom_bytes(film(1)))
    (source / "b.txt").write_bytes(b"no DICOM")
    first = route()
    other = ("--model", str(bundle))
    assert route(*other)["counts"]["unchanged"] == 2
    again = route(*other, "--reprocess", "model")
    assert again["counts"]["unchanged"] == 1
    rows = [r for r in lake.rows() if r["source_uri"].endswith("a.dcm")]
    assert {r["model_id"] for r in rows} == {first["model_id"], again["model_id"]}
    assert all(r["status"] in ("routed", "review") for r in rows)
    assert route(*other, "--reprocess", "model")["counts"]["unchanged"] == 2
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_a_manifest_is_checked_whole(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    manifest.write_text(
        "path,label,split,source,group\n"
        "a.png,hand,train,s,1\n"
        "a.png,spine,later,s,2\n"
        "b.png,spine,train,s,3\n"
        "a.png,spine,val,s,3\n"
    )
    with pytest.raises(FilmsError) as caught:
        read_films(manifest)
    for part in ("'hand'", "'later'", "b.png", "group 3"):
        assert part in str(caught.value)


def test_a_group_never_spans_splits(folders: Path) -> None:
    films = read_films(folders)
    assert {f.split for f in films} == {"train", "val", "test"}
    assert read_films(folders) == films


def test_augmentation_is_repeatable_and_keeps_the_range() -> None:
    gray = (film(shape=(120, 90)) >> 4).astype(np.uint8)
    for seed in range(40):
        one = augment(gray, np.random.default_rng(seed))
        assert np.array_equal(one, augment(gray, np.random.default_rng(seed)))
        assert 0 <= one.min() <= one.max() <= 255
        assert min(one.shape) >= 16


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, len(LABELS))).astype(np.float32)
    chances = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = np.array([rng.choice(len(LABELS), p=p / p.sum()) for p in chances.astype(float)])
    assert fit_temperature(true * 3, labels) == pytest.approx(3, rel=0.1)
    assert expected_calibration_error(chances, labels) < 0.02


def test_thresholds_keep_the_target_error_on_their_data() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, len(LABELS), 3000)
    logits = rng.normal(0, 1.5, (3000, len(LABELS))).astype(np.float32)
    logits[np.arange(3000), labels] += 4
    found = calibrate(logits, labels, target_error=0.02)
    for label, of in found.evidence["labels"].items():
        assert of["wrong"] <= 0.02 * of["routed"], label
    assert 0 < found.evidence["coverage"] < 1
