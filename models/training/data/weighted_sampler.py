"""What a training is shown: which images are drawn how often, and in what variants."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.training.data.augmentation import augment, beside, framed, mix_style
from models.training.data.images import LabeledImage
from models.training.data.outliers import shuffle_tiles, synthetic_outlier
from models.training.data.regions import UNKNOWN
from models.training.options import FitOptions
from transforms.imaging.preprocessing import preprocess

OUTLIER: Final = -1
"""Stands for the label of a picture of no anatomy."""
OUTLIER_TARGETS: Final = (OUTLIER, UNKNOWN)


class AugmentedImages(Dataset[tuple[Tensor, int, int]]):
    """Items are asked for by index and seed: they do not depend on the number of workers."""

    def __init__(
        self,
        grays: list[npt.NDArray[np.uint8]],
        labels: list[int],
        regions: list[int],
        weights: list[float],
        options: FitOptions,
    ) -> None:
        self.grays, self.labels, self.regions, self.options = grays, labels, regions, options
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
        size = self.options.input_size
        is_outlier = rng.random() < self.options.outlier_exposure
        if is_outlier and rng.random() < 0.5:
            return torch.from_numpy(
                preprocess(synthetic_outlier(rng, size), size)
            ), *OUTLIER_TARGETS
        gray, region = self.grays[index], self.regions[index]
        if self.options.pairs and rng.random() < self.options.pairs:
            alike, chances = self.of_label[self.labels[index]]
            second = int(rng.choice(alike, p=chances))
            gray = beside(gray, self.grays[second], rng)
            region = region if region == self.regions[second] else UNKNOWN
        if self.options.frames and rng.random() < self.options.frames:
            gray = framed(gray, rng)
        image = preprocess(augment(gray, rng, self.options.augmentation), size)
        if rng.random() < self.options.style_mix:
            other = self.grays[int(rng.integers(len(self.grays)))]
            image = mix_style(image, preprocess(other, size), rng)
        if is_outlier:
            return torch.from_numpy(shuffle_tiles(image, rng)), *OUTLIER_TARGETS
        return torch.from_numpy(image), self.labels[index], region


class WeightedSampler(Sampler[tuple[int, int]]):
    """Indices by weight, each with a seed, as many as there are images; another lot for each pass."""

    def __init__(self, weights: list[float], seed: int) -> None:
        self.weights, self.seed, self.number = np.array(weights) / sum(weights), seed, 0

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.number))
        indices = rng.choice(len(self), len(self), p=self.weights)
        seeds = rng.integers(2**62, size=len(self))
        yield from zip(indices.tolist(), seeds.tolist(), strict=True)


def sampling_weights(images: list[LabeledImage], source_power: float) -> list[float]:
    """Each class equally often; within a class, sources by a power of their size."""
    of_source = Counter((f.label, f.source) for f in images)
    shares = [f.weight * of_source[f.label, f.source] ** (source_power - 1) for f in images]
    of_class: dict[str, float] = defaultdict(float)
    for image, share in zip(images, shares, strict=True):
        of_class[image.label] += share
    return [share / of_class[f.label] for f, share in zip(images, shares, strict=True)]
