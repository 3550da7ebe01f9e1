"""OOD score by virtual-logit matching: the residual of the features, offset by the energy.

Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching". `models.training.calibration
.fit_vim` fits it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.ensemble import MeanOfLogits


class VirtualLogit(nn.Module):
    """The OOD score of one network.

    Attributes:
        mean: float[F], of the training images' features.
        axes: float[F, D], orthonormal basis of their principal subspace.
        scale: float[], brings residuals to the magnitude of logits.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, axes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("scale", scale)

    def forward(self, features: Tensor, layer: nn.Module) -> Tensor:
        """Return scores, float32[N]; higher is less like the training images.

        Args:
            features: float[N, F].
            layer: maps features to logits, float[N, n_labels].
        """
        centered = features.float() - self.mean.float()
        in_subspace = (centered @ self.axes.float()).square().sum(1)
        residual = (centered.square().sum(1) - in_subspace).clamp_min(0).sqrt()
        return self.scale.float() * residual - torch.logsumexp(layer(features).float(), dim=1)


class MaxVirtualLogit(nn.ModuleList):
    """The OOD score of an ensemble: the highest of its members'."""

    def __init__(self, members: Iterable[VirtualLogit]) -> None:
        super().__init__(members)

    def forward(self, features: Tensor, layer: MeanOfLogits) -> Tensor:
        """Return scores, float32[N].

        Args:
            features: float[N, F], the members' concatenated.
            layer: of the ensemble.
        """
        members = zip(self, layer.by_member(features), strict=True)
        return torch.stack([score(own, own_layer) for score, (own, own_layer) in members]).amax(0)
