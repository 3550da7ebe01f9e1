"""Regions, anatomy finer than the labels, are an auxiliary task where a manifest names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from models.bundle import read_info
from models.training.data.dataset import read_dataset
from models.training.data.images import LabeledImage
from models.training.data.regions import MIN_IMAGES, UNKNOWN_REGION, number_regions
from models.training.data.weighted_sampler import OUTLIER, AugmentedImages, SampleOptions
from models.training.loss import region_loss, supervised_loss
from models.training.options import FitOptions
from models.weights import load_network
from pipeline.cli import main
from transforms.core.errors import UsageError
from transforms.core.labels import LABELS


def images_of(*regions: tuple[str, str]) -> list[LabeledImage]:
    return [
        LabeledImage(Path(), label, "train", "s", str(i), region=region)
        for i, (label, region) in enumerate(regions)
    ]


def test_regions_are_numbered_within_labels() -> None:
    many = [
        *[("others", "Knee")] * (MIN_IMAGES - 1),
        ("others", "pred:knee"),
        *[("spine", "Knee")] * MIN_IMAGES,
        *[("spine", "rare")] * (MIN_IMAGES - 1),
        ("others", ""),
    ]
    numbers, count = number_regions(images_of(*many))
    assert count == 2
    knees = [0] * MIN_IMAGES + [1] * MIN_IMAGES
    assert numbers == knees + [UNKNOWN_REGION] * MIN_IMAGES
    with pytest.raises(UsageError, match="no region has"):
        number_regions(images_of(("spine", "rare"), ("others", "")))


def test_images_without_a_known_region_do_not_count() -> None:
    logits, regions = torch.randn(6, 3), torch.tensor([0, UNKNOWN_REGION, 2, 1, UNKNOWN_REGION, 2])
    known = regions != UNKNOWN_REGION
    expected = cross_entropy(logits[known], regions[known], label_smoothing=0.1) * 4 / 6
    torch.testing.assert_close(region_loss(logits, regions, 0.1), expected)
    assert region_loss(logits, torch.full((6,), UNKNOWN_REGION), 0.1) == 0


@pytest.mark.slow
def test_regions_are_trained_and_not_stored(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    train = ["train", "--data", str(manifest), "--architecture", "test_efficientnet"]
    train += ["--init", "none", "--input_size", "32", "--epochs", "1", "--batch_size", "8"]
    train += ["--workers", "0", "--device", "cpu"]

    def trained_on(regions: str, weight: str) -> int:
        lines = ["path,label,split,group,region"]
        for number, image in enumerate(read_dataset(folders)):
            split = "val" if number % 12 == 0 else "train"
            region = regions[number % len(regions)]
            lines.append(f"{image.path},{image.label},{split},{number},{region}")
        manifest.write_text("\n".join(lines))
        return main([*train, "--region_weight", weight, "--output", str(tmp_path / weight)])

    assert trained_on("ABC", "1") == 2
    assert "--region_weight: no region has 8 train images" in capsys.readouterr().err
    assert trained_on("A", "1") == 0
    info = read_info(str(tmp_path / "1"))
    assert info.training["options"]["region_weight"] == 1.0
    assert load_network(str(tmp_path / "1")).backbone.get_classifier().out_features == len(LABELS)


def test_regions_count_by_their_weight() -> None:
    """The gradient of the features is the labels' plus the weighted regions'."""
    features = torch.randn(5, 8)
    to_labels, to_regions = torch.nn.Linear(8, len(LABELS)), torch.nn.Linear(8, 3)
    labels, regions = (
        torch.tensor([0, 1, OUTLIER, 3, 4]),
        torch.tensor([0, 1, UNKNOWN_REGION, 2, UNKNOWN_REGION]),
    )

    def gradient(weight: float) -> torch.Tensor:
        seen = features.clone().requires_grad_()
        options = FitOptions(region_weight=weight)
        loss = supervised_loss(to_labels(seen), to_regions(seen), labels, regions, options)
        (of_features,) = torch.autograd.grad(loss, seen)
        return of_features

    none, once, twice = (gradient(weight) for weight in (0.0, 1.0, 2.0))
    torch.testing.assert_close(twice - once, once - none)
    has_region = (once - none).abs().amax(1) > 0
    assert has_region.tolist() == [True, True, False, True, False]


def test_the_second_image_of_a_pair_has_the_same_label_and_is_drawn_by_weight() -> None:
    """An image of weight 0 is never the second one."""
    levels = (40, 100, 160, 220)
    grays = [np.full((40, 40), level, np.uint8) for level in levels]
    labels, regions, weights = [0, 0, 0, 1], [0, 1, 0, 2], [0.5, 0.0, 0.5, 1.0]
    options = SampleOptions(
        input_size=32,
        augmentation="plain",
        collimation=0,
        pairs=1.0,
        frames=0,
        style_mix=0,
        outlier_exposure=0,
    )
    images = AugmentedImages(grays, labels, regions, weights, options)
    shown_regions: dict[int, set[int]] = {}
    for index in range(len(grays)):
        drawn = [images[index, seed] for seed in range(30)]
        assert {label for _, label, _ in drawn} == {labels[index]}
        shown_regions[index] = {region for *_, region in drawn}
    # image 1 is never second, so images 0 and 2 are paired within their region
    assert shown_regions == {0: {0}, 1: {UNKNOWN_REGION}, 2: {0}, 3: {2}}
