"""Training with outliers, generated ones and those of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from models.bundle import read_info
from models.training.data.outlier_folder import OutlierImages, read_outlier_folder
from models.training.data.regions import UNKNOWN_REGION
from models.training.data.weighted_sampler import OUTLIER, AugmentedImages, SampleOptions
from pipeline.cli import main
from transforms.imaging.preprocessing import preprocess

CHECKERS = np.kron(np.indices((4, 4)).sum(0) % 2, np.full((10, 10), 255)).astype(np.uint8)
"""The image of the folder, which no generated outlier resembles."""
TINY = (
    "--architecture", "test_efficientnet", "--init", "none", "--input_size", "32", "--epochs", "1",
    "--batch_size", "8", "--workers", "0", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def outlier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outliers")
    (root / "photograph" / "own").mkdir(parents=True)
    Image.fromarray(CHECKERS).save(root / "photograph" / "own" / "checkers.png")
    (root / "sources.csv").write_text("source,license\nown,CC0\n", encoding="utf-8")
    return root


def samples(
    share: float, outliers: OutlierImages | None
) -> list[tuple[npt.NDArray[np.uint8], int, int]]:
    """Return samples of one image, as arrays."""
    options = SampleOptions(
        input_size=32, augmentation="plain", collimation=0, pairs=0, frames=0, style_mix=0,
        outlier_exposure=share,
    )  # fmt: skip
    gray = np.tile(np.arange(40, dtype=np.uint8), (40, 1))
    images = AugmentedImages([gray], [3], [1], [1.0], options, outliers)
    drawn = (images[0, seed] for seed in range(200))
    return [(image.numpy(), label, region) for image, label, region in drawn]


def test_half_of_the_outliers_are_of_the_folder(outlier_folder: Path) -> None:
    drawn = samples(1.0, read_outlier_folder(outlier_folder))
    assert {tuple(targets) for _, *targets in drawn} == {(OUTLIER, UNKNOWN_REGION)}
    checkers = preprocess(CHECKERS, 32)
    of_folder = sum(np.array_equal(image, checkers) for image, *_ in drawn)
    # 100 of 200 are expected, about a third of them unchanged
    assert 15 <= of_folder <= 60
    assert not any(np.array_equal(image, checkers) for image, *_ in samples(1.0, None))


def test_the_other_samples_are_those_without_a_folder(outlier_folder: Path) -> None:
    with_folder = samples(0.3, read_outlier_folder(outlier_folder))
    without = samples(0.3, None)
    radiographs = 0
    for (image, *targets), (same, *same_targets) in zip(with_folder, without, strict=True):
        assert targets == same_targets
        if targets == [3, 1]:
            assert np.array_equal(image, same)
            radiographs += 1
    assert 120 <= radiographs <= 160


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, outlier_folder: Path) -> Path:
    """A folder with bundles trained `without` and `with` the folder."""
    root = tmp_path_factory.mktemp("bundles")
    rng = np.random.default_rng(0)
    for label in ("hand", "skull"):
        (root / "images" / label).mkdir(parents=True)
        for number in range(24):
            shown = rng.integers(0, 255, (40, 40)).astype(np.uint8)
            Image.fromarray(shown).save(root / "images" / label / f"{number}.png")
    train = ["train", "--data", str(root / "images"), *TINY]
    assert main([*train, "--output", str(root / "without")]) == 0
    exposed = ["--outlier_images", str(outlier_folder), "--outlier_exposure", "0.5"]
    assert main([*train, "--output", str(root / "with"), *exposed]) == 0
    return root


def test_a_bundle_names_the_outliers_it_was_trained_on(bundles: Path) -> None:
    own = {"source": "own", "license": "CC0", "kinds": ["photograph"], "images": 1}
    training = read_info(str(bundles / "with")).training
    assert training["outliers"] == [own]
    assert training["options"]["outlier_exposure"] == 0.5
    assert "outliers" not in read_info(str(bundles / "without")).training


def test_the_card_says_that_the_network_was_trained_on_outliers(
    bundles: Path, tmp_path: Path
) -> None:
    evaluate = ["evaluate", "--model", str(bundles / "with"), "--data", str(bundles / "images")]
    assert main([*evaluate, "--output", str(tmp_path), "--device", "cpu"]) == 0
    card = (tmp_path / "card.md").read_text()
    assert "Images that the network was trained on as outliers" in card
    assert "| own | CC0 | photograph | 1 |" in card


def sources(folder: Path, output: str, *how: str) -> list[str]:
    """Calibrate bundles; return the sources of the outliers that the result names."""
    command = ["calibrate", "--data", str(folder / "images"), "--output", str(folder / output)]
    assert main([*command, "--device", "cpu", *how]) == 0
    training = read_info(str(folder / output)).training
    return [of["source"] for of in training.get("outliers", [])]


def test_an_ensemble_names_the_outliers_of_its_members(bundles: Path) -> None:
    members = ["--model", str(bundles / "without"), "--ensemble", str(bundles / "with")]
    assert sources(bundles, "both", *members) == ["own"]


def test_a_new_fit_of_the_ood_score_keeps_the_outliers_of_the_training(
    bundles: Path, tmp_path: Path
) -> None:
    (tmp_path / "ct" / "other").mkdir(parents=True)
    Image.fromarray(CHECKERS).save(tmp_path / "ct" / "other" / "0.png")
    refit = ["--outliers", "--outlier_images", str(tmp_path)]
    assert sources(bundles, "exposed", "--model", str(bundles / "with"), *refit) == ["own", "other"]
    # the network of this one was not trained on them, so that only the last fit counts
    assert sources(bundles, "fitted", "--model", str(bundles / "without"), *refit) == ["other"]
    assert sources(bundles, "kept", "--model", str(bundles / "fitted")) == ["other"]
    assert sources(bundles, "generated", "--model", str(bundles / "kept"), "--outliers") == []
