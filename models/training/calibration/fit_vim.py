"""Fit the OOD score: principal subspace and scale of `models.ood_vim`."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.networks import BodyPartClassifier
from models.ood_vim import VirtualLogit
from models.weights import round_to_stored

MAX_DIMENSIONS: Final = 128
IMAGES_PER_DIMENSION: Final = 4
"""Minimum, so that few images do not span the whole feature space."""
FEATURES_PER_DIMENSION: Final = 2
"""Minimum, so that a residual is left."""
MIN_RESIDUAL: Final = 1e-3
FORWARD_BATCH: Final = 32
LINEAR_TOLERANCE: Final = 1e-3


def fit_virtual_logit(network: BodyPartClassifier, inputs: Tensor) -> VirtualLogit | None:
    """Return the OOD score of a trained network, rounded as bundles store it.

    Args:
        network: in evaluation mode.
        inputs: uint8[N, 1, S, S], training images.

    Returns:
        None if the logits are not one linear layer away from the features; then the energy is used.
    """
    if not _ends_in_linear_layer(network, inputs[:2]):
        return None
    with torch.inference_mode():
        parts = torch.split(inputs, FORWARD_BATCH)
        features = torch.cat([network.features(part).float() for part in parts])
        layer = network.backbone.get_classifier()
        logits = layer(features)
    mean = features.mean(0)
    dimensions = min(
        MAX_DIMENSIONS,
        len(inputs) // IMAGES_PER_DIMENSION,
        features.shape[1] // FEATURES_PER_DIMENSION,
    )
    centered = (features - mean).double()
    _, directions = torch.linalg.eigh(centered.T @ centered)  # by ascending variance
    axes = directions.flip(1)[:, :dimensions].float().contiguous()
    stored = round_to_stored({"mean": mean, "axes": axes})
    unscaled = VirtualLogit(**stored, scale=torch.tensor(1.0))
    energy = -torch.logsumexp(logits, dim=1)
    with torch.inference_mode():
        residual = unscaled(features, layer) - energy
    scale = logits.amax(1).mean() / residual.mean().clamp_min(MIN_RESIDUAL)
    return VirtualLogit(**stored, **round_to_stored({"scale": scale}))


def _ends_in_linear_layer(network: BodyPartClassifier, inputs: Tensor) -> bool:
    layer = network.backbone.get_classifier()
    if not isinstance(layer, nn.Module):
        return False
    with torch.inference_mode():
        try:
            logits = layer(network.features(inputs))
        except RuntimeError:  # the layer takes maps, not features
            return False
        tolerance = LINEAR_TOLERANCE
        return torch.allclose(logits, network.logits(inputs), rtol=tolerance, atol=tolerance)
