"""Regions, finer than labels, are learnt beside them where a manifest names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.bundle import read_info
from models.training.films import Film, read_films
from models.training.regions import LEAST_FILMS, UNKNOWN, number_regions, region_loss
from pipeline.cli import main
from transforms.errors import UsageError


def films_of(*regions: tuple[str, str]) -> list[Film]:
    return [
        Film(Path(), label, "train", "s", str(i), region=region)
        for i, (label, region) in enumerate(regions)
    ]


def test_regions_are_numbered_within_labels() -> None:
    many = [
        *[("others", "Knee")] * (LEAST_FILMS - 1),
        ("others", "pred:Knee"),
        *[("spine", "Knee")] * LEAST_FILMS,
        *[("spine", "rare")] * (LEAST_FILMS - 1),
        ("others", ""),
    ]
    numbers, count = number_regions(films_of(*many))
    assert count == 2
    knees = [0] * LEAST_FILMS + [1] * LEAST_FILMS
    assert numbers == knees + [UNKNOWN] * LEAST_FILMS
    with pytest.raises(UsageError, match="no region has"):
        number_regions(films_of(("spine", "rare"), ("others", "")))


def test_films_of_no_known_region_do_not_count() -> None:
    logits, regions = torch.randn(6, 3), torch.tensor([0, UNKNOWN, 2, 1, UNKNOWN, 2])
    known = regions != UNKNOWN
    expected = cross_entropy(logits[known], regions[known], label_smoothing=0.1) * 4 / 6
    torch.testing.assert_close(region_loss(logits, regions, 0.1), expected)
    assert region_loss(logits, torch.full((6,), UNKNOWN), 0.1) == 0


def test_regions_are_learnt_and_stay_out_of_the_bundle(
    folders: Path, tmp_path: Path, capsys
) -> None:
    manifest = tmp_path / "manifest.csv"
    train = ["train", "--data", str(manifest), "--architecture", "test_efficientnet"]
    train += ["--init", "none", "--input_size", "32", "--passes", "1", "--batch_size", "8"]
    train += ["--workers", "0", "--device", "cpu"]

    def trained_on(regions: str, weight: str) -> int:
        lines = ["path,label,split,group,region"]
        for number, film in enumerate(read_films(folders)):
            split = "val" if number % 12 == 0 else "train"
            region = regions[number % len(regions)]
            lines.append(f"{film.path},{film.label},{split},{number},{region}")
        manifest.write_text("\n".join(lines))
        return main([*train, "--region_weight", weight, "--output", str(tmp_path / weight)])

    assert trained_on("ABC", "1") == 2
    assert "--region_weight: no region has 8 train films" in capsys.readouterr().err
    assert trained_on("A", "1") == trained_on("A", "0") == 0
    with_regions, without = (read_info(str(tmp_path / weight)) for weight in "10")
    assert with_regions.weights_sha256 != without.weights_sha256
    assert with_regions.training["options"]["region_weight"] == 1.0
    assert with_regions.labels == without.labels
