"""What a network is to learn of labels, regions and outliers."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.training.data.regions import region_loss
from models.training.data.weighted_sampler import OUTLIER
from models.training.options import FitOptions

OUTLIER_WEIGHT: Final = 0.5


def supervised_loss(
    logits: Tensor, of_regions: Tensor, labels: Tensor, regions: Tensor, options: FitOptions
) -> Tensor:
    """Mean cross-entropy of labels and regions; that of outliers, to all labels alike, counts less."""
    smoothing = options.label_smoothing
    of_images = nn.functional.cross_entropy(
        logits, labels, label_smoothing=smoothing, ignore_index=OUTLIER, reduction="sum"
    )
    alike = -torch.log_softmax(logits, dim=1).mean(1)
    of_outliers = alike[labels == OUTLIER].sum()
    loss = (of_images + OUTLIER_WEIGHT * of_outliers) / len(labels)
    if not options.region_weight:
        return loss
    return loss + options.region_weight * region_loss(of_regions, regions, smoothing)
