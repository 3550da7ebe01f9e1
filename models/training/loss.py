"""Training losses on labels, outliers and regions."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.training.data.regions import UNKNOWN_REGION
from models.training.data.weighted_sampler import OUTLIER
from models.training.options import FitOptions

OUTLIER_WEIGHT: Final = 0.5


def supervised_loss(
    logits: Tensor, region_logits: Tensor, labels: Tensor, regions: Tensor, options: FitOptions
) -> Tensor:
    """Return the mean cross-entropy of labels and regions, and of outliers to a uniform target.

    Args:
        logits: float32[N, n_labels].
        region_logits: float32[N, n_regions]; unused if `region_weight` is 0.
        labels: int64[N], `OUTLIER` for outliers.
        regions: int64[N], or `UNKNOWN_REGION`.
        options: `label_smoothing` and `region_weight`.
    """
    smoothing = options.label_smoothing
    label_loss = nn.functional.cross_entropy(
        logits, labels, label_smoothing=smoothing, ignore_index=OUTLIER, reduction="sum"
    )
    uniform = -torch.log_softmax(logits, dim=1).mean(1)
    outlier_loss = uniform[labels == OUTLIER].sum()
    loss = (label_loss + OUTLIER_WEIGHT * outlier_loss) / len(labels)
    if not options.region_weight:
        return loss
    return loss + options.region_weight * region_loss(region_logits, regions, smoothing)


def region_loss(logits: Tensor, regions: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy over images; those of `UNKNOWN_REGION` count 0.

    Args:
        logits: float32[N, n_regions].
        regions: int64[N].
        label_smoothing: 0..1, 1 excluded.
    """
    known_loss = nn.functional.cross_entropy(
        logits,
        regions,
        label_smoothing=label_smoothing,
        ignore_index=UNKNOWN_REGION,
        reduction="sum",
    )
    return known_loss / len(regions)
