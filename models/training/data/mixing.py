"""Two images learnt as one, with both labels: mixup and CutMix."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MixedBatch(NamedTuple):
    """Images, each with some of another one in it.

    Attributes:
        images: [N, 1, S, S], of the type that they came in or float32.
        order: int64[N], the index of the image that each was blended with.
        share: of the image itself in what is shown, in [0, 1].
    """

    images: Tensor
    order: Tensor
    share: float


def mixup(images: Tensor, alpha: float, rng: np.random.Generator) -> MixedBatch:
    """Show images through one another (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").

    Args:
        images: [N, 1, S, S]; the order is drawn by torch's own generator.
        alpha: of the Beta distribution of the share; above 0.
        rng: of the share.
    """
    share = float(rng.beta(alpha, alpha))
    order = torch.randperm(len(images))
    return MixedBatch(torch.lerp(images[order].float(), images.float(), share), order, share)


def cutmix(images: Tensor, alpha: float, rng: np.random.Generator) -> MixedBatch:
    """Show a rectangle of another image in each (Yun et al. 2019, "CutMix: Regularization Strategy").

    Args:
        images: [N, 1, S, S]; the order is drawn by torch's own generator.
        alpha: of the Beta distribution of the share that stays; above 0.
        rng: of share and place.
    """
    order = torch.randperm(len(images))
    height, width = images.shape[-2:]
    cut = math.sqrt(1.0 - float(rng.beta(alpha, alpha)))
    rows, columns = _span(height, cut, rng), _span(width, cut, rng)
    shown = images.clone()
    shown[..., rows, columns] = images[order][..., rows, columns]
    hidden = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return MixedBatch(shown, order, 1.0 - hidden)


def _span(side: int, cut: float, rng: np.random.Generator) -> slice:
    """A part of a side around a point of it; what would lie outside is lost."""
    middle, half = rng.uniform(0, side), cut * side / 2
    return slice(max(0, round(middle - half)), min(side, round(middle + half)))
