"""Mix two images and their labels: mixup and CutMix."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MixedBatch(NamedTuple):
    """Images, each mixed with another image of the batch.

    Attributes:
        images: [N, 1, S, S], of the input's type or float32.
        partners: int64[N], index of the image that each was mixed with.
        weight: share of the image itself, and of its label in the loss, 0..1.
    """

    images: Tensor
    partners: Tensor
    weight: float


def mixup(images: Tensor, alpha: float, rng: np.random.Generator) -> MixedBatch:
    """Superimpose images (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").

    Args:
        images: [N, 1, S, S]; partners are drawn by torch's global generator.
        alpha: of the Beta distribution of the weight, > 0.
        rng: draws the weight.
    """
    weight = float(rng.beta(alpha, alpha))
    partners = torch.randperm(len(images))
    mixed = torch.lerp(images[partners].float(), images.float(), weight)
    return MixedBatch(mixed, partners, weight)


def cutmix(images: Tensor, alpha: float, rng: np.random.Generator) -> MixedBatch:
    """Replace a rectangle by another image's (Yun et al. 2019, "CutMix: Regularization Strategy").

    Args:
        images: [N, 1, S, S]; partners are drawn by torch's global generator.
        alpha: of the Beta distribution of the share that stays, > 0.
        rng: draws share and position.
    """
    partners = torch.randperm(len(images))
    height, width = images.shape[-2:]
    cut = math.sqrt(1.0 - float(rng.beta(alpha, alpha)))
    rows, columns = _random_span(height, cut, rng), _random_span(width, cut, rng)
    mixed = images.clone()
    mixed[..., rows, columns] = images[partners][..., rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return MixedBatch(mixed, partners, 1.0 - replaced)


def _random_span(side: int, share: float, rng: np.random.Generator) -> slice:
    """Return a span around a random position, clipped to 0..side."""
    center, half = rng.uniform(0, side), share * side / 2
    return slice(max(0, round(center - half)), min(side, round(center + half)))
