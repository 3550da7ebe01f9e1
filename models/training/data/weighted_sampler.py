"""Training samples: which images are drawn how often, and how they are augmented."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.training.data.augmentation import (
    Augmentation,
    add_frame,
    augment,
    mix_style,
    side_by_side,
)
from models.training.data.images import LabeledImage
from models.training.data.outlier_folder import OutlierImages
from models.training.data.outliers import shuffle_tiles, synthetic_outlier
from models.training.data.regions import UNKNOWN_REGION
from transforms.imaging.preprocessing import preprocess

Gray: TypeAlias = npt.NDArray[np.uint8]
OUTLIER: Final = -1
"""Label of an outlier."""
_OUTLIER_TARGETS: Final = (OUTLIER, UNKNOWN_REGION)


@dataclass(frozen=True)
class SampleOptions:
    """How samples are made; see the fields of the same names of `FitOptions`."""

    input_size: int
    augmentation: Augmentation
    collimation: float
    pairs: float
    frames: float
    style_mix: float
    outlier_exposure: float


class AugmentedImages(Dataset[tuple[Tensor, int, int]]):
    """Samples uint8[1, S, S], label and region, by index and seed.

    They do not depend on the number of workers.
    """

    def __init__(
        self,
        grays: Sequence[Gray],
        labels: Sequence[int],
        regions: Sequence[int],
        weights: Sequence[float],
        options: SampleOptions,
        outliers: OutlierImages | None = None,
    ) -> None:
        """Make samples.

        Args:
            grays: the images, uint8[H, W].
            labels: of each.
            regions: of each, or `UNKNOWN_REGION`.
            weights: sampling weight of each.
            options: how samples are made.
            outliers: half of the outliers are images of these; None makes all of them.
        """
        self.grays, self.labels, self.regions, self.options = grays, labels, regions, options
        self.outliers = outliers
        self.of_label: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {}
        for label in set(labels):
            indices = np.flatnonzero(np.array(labels) == label)
            chances = np.array(weights)[indices]
            self.of_label[label] = indices, chances / chances.sum()

    def __len__(self) -> int:
        return len(self.grays)

    def __getitem__(self, drawn: tuple[int, int]) -> tuple[Tensor, int, int]:
        index, seed = drawn
        rng = np.random.default_rng(seed)
        options, size = self.options, self.options.input_size
        is_outlier = rng.random() < options.outlier_exposure
        if is_outlier and self.outliers is not None and rng.random() < 0.5:
            return torch.from_numpy(preprocess(self.outliers.variant(rng), size)), *_OUTLIER_TARGETS
        if is_outlier and rng.random() < 0.5:
            outlier = preprocess(synthetic_outlier(rng, size), size)
            return torch.from_numpy(outlier), *_OUTLIER_TARGETS
        gray, region = self.grays[index], self.regions[index]
        if options.pairs and rng.random() < options.pairs:
            same_label, chances = self.of_label[self.labels[index]]
            second = int(rng.choice(same_label, p=chances))
            gray = side_by_side(gray, self.grays[second], rng)
            region = region if region == self.regions[second] else UNKNOWN_REGION
        if options.frames and rng.random() < options.frames:
            gray = add_frame(gray, rng)
        image = preprocess(augment(gray, rng, options.augmentation, options.collimation), size)
        if rng.random() < options.style_mix:
            other = self.grays[int(rng.integers(len(self.grays)))]
            image = mix_style(image, preprocess(other, size), rng)
        if is_outlier:
            return torch.from_numpy(shuffle_tiles(image, rng)), *_OUTLIER_TARGETS
        return torch.from_numpy(image), self.labels[index], region


class WeightedSampler(Sampler[tuple[int, int]]):
    """Draws indices by weight, each with a seed.

    Attributes:
        epoch: number of the epoch; each draws another sample.
    """

    def __init__(self, weights: Sequence[float], seed: int, length: int) -> None:
        """Make a sampler.

        Args:
            weights: of the images, not negative.
            seed: of all epochs.
            length: number of indices of an epoch.
        """
        self.weights, self.seed, self.epoch = np.array(weights) / sum(weights), seed, 0
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        indices = rng.choice(len(self.weights), len(self), p=self.weights)
        seeds = rng.integers(2**62, size=len(self))
        yield from zip(indices.tolist(), seeds.tolist(), strict=True)


def sampling_weights(images: Sequence[LabeledImage], source_power: float) -> list[float]:
    """Return a weight per image: classes are balanced, and within a class sources by a power of size."""
    sizes = Counter((image.label, image.source) for image in images)
    shares = [
        image.weight * sizes[image.label, image.source] ** (source_power - 1) for image in images
    ]
    totals: dict[str, float] = defaultdict(float)
    for image, share in zip(images, shares, strict=True):
        totals[image.label] += share
    return [share / totals[image.label] for image, share in zip(images, shares, strict=True)]
