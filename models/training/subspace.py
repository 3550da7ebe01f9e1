"""Finds what the features of films span, for the OOD score."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from models.bundle import as_stored
from models.networks import FilmClassifier
from models.virtual_logit import VirtualLogit

DIMENSIONS: Final = 128
FILMS_PER_DIMENSION: Final = 4
"""Least films for a direction, so that few films do not span everything."""


def fit_virtual_logit(network: FilmClassifier, inputs: Tensor) -> VirtualLogit:
    """Return the OOD score of a network whose weights are final, rounded as bundles keep it.

    Args:
        network: in evaluation mode.
        inputs: uint8[N, 1, S, S], films that it learnt from.
    """
    with torch.inference_mode():
        features = torch.cat([network.features(part).float() for part in torch.split(inputs, 32)])
        logits = network.backbone.get_classifier()(features)
    mean = features.mean(0)
    dimensions = min(DIMENSIONS, len(inputs) // FILMS_PER_DIMENSION)
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    parts = as_stored({"mean": mean, "axes": directions[:dimensions].T.contiguous()})
    unscaled = VirtualLogit(**parts, scale=torch.tensor(1.0))
    energy = -torch.logsumexp(logits, dim=1)
    residual = unscaled(features, logits) - energy
    scale = logits.amax(1).mean() / residual.mean().clamp_min(1e-6)
    return VirtualLogit(**parts, **as_stored({"scale": scale}))
