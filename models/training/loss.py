"""What a network is to learn of labels, regions and strangers."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.training.draws import STRANGER
from models.training.options import FitOptions
from models.training.regions import region_loss

STRANGER_WEIGHT: Final = 0.5


def supervised_loss(
    logits: Tensor, of_regions: Tensor, labels: Tensor, regions: Tensor, options: FitOptions
) -> Tensor:
    """Mean cross-entropy of labels and regions; that of strangers, to all labels alike, counts less."""
    smoothing = options.label_smoothing
    of_films = nn.functional.cross_entropy(
        logits, labels, label_smoothing=smoothing, ignore_index=STRANGER, reduction="sum"
    )
    alike = -torch.log_softmax(logits, dim=1).mean(1)
    of_strangers = alike[labels == STRANGER].sum()
    loss = (of_films + STRANGER_WEIGHT * of_strangers) / len(labels)
    if not options.region_weight:
        return loss
    return loss + options.region_weight * region_loss(of_regions, regions, smoothing)
