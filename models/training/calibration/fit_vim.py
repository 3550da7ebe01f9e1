"""Finds what the features of images span, for the OOD score."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.bundle import round_to_stored
from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit

DIMENSIONS: Final = 128
IMAGES_PER_DIMENSION: Final = 4
"""Least images for a direction, so that few images do not span everything."""
FEATURES_PER_DIMENSION: Final = 2
"""Least features for a direction, so that something lies outside."""
LEAST_RESIDUAL: Final = 1e-3


def fit_virtual_logit(network: BodyPartClassifier, inputs: Tensor) -> VirtualLogit | None:
    """Return the OOD score of a network whose weights are final, rounded as bundles keep it.

    Args:
        network: in evaluation mode.
        inputs: uint8[N, 1, S, S], images like those that it learnt from.

    Returns:
        None if the network's logits are more than one linear layer away from its features: then
        the energy has to do.
    """
    if not _ends_in_a_layer(network, inputs[:2]):
        return None
    with torch.inference_mode():
        features = torch.cat([network.features(part).float() for part in torch.split(inputs, 32)])
        layer = network.backbone.get_classifier()
        logits = layer(features)
    mean = features.mean(0)
    dimensions = min(
        DIMENSIONS,
        len(inputs) // IMAGES_PER_DIMENSION,
        features.shape[1] // FEATURES_PER_DIMENSION,
    )
    away = (features - mean).double()
    _, directions = torch.linalg.eigh(away.T @ away)  # of rising variance
    axes = directions.flip(1)[:, :dimensions].float().contiguous()
    parts = round_to_stored({"mean": mean, "axes": axes})
    unscaled = VirtualLogit(**parts, scale=torch.tensor(1.0))
    energy = -torch.logsumexp(logits, dim=1)
    with torch.inference_mode():
        residual = unscaled(features, layer) - energy
    scale = logits.amax(1).mean() / residual.mean().clamp_min(LEAST_RESIDUAL)
    return VirtualLogit(**parts, **round_to_stored({"scale": scale}))


def _ends_in_a_layer(network: BodyPartClassifier, inputs: Tensor) -> bool:
    layer = network.backbone.get_classifier()
    if not isinstance(layer, nn.Module):
        return False
    with torch.inference_mode():
        try:
            logits = layer(network.features(inputs))
        except RuntimeError:  # a layer of maps, not of features
            return False
        return torch.allclose(logits, network.logits(inputs), rtol=1e-3, atol=1e-3)
