"""The OOD score of an image: how far its features lie outside what images span, with the energy.

Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching".
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.ensemble import MeanOfLogits


class VirtualLogit(nn.Module):
    """Residual of features outside the principal subspace of images, set off against the logits.

    Attributes:
        mean: float[F], of the features of images.
        axes: float[F, D], orthonormal: the directions that images' features vary in.
        scale: float[], which makes residuals as large as logits.
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
        """Return float32[N], higher for what is less like images.

        Args:
            features: float[N, F].
            layer: what makes logits, float[N, n_labels], of features.
        """
        away = features.float() - self.mean.float()
        spanned = (away @ self.axes.float()).square().sum(1)
        residual = (away.square().sum(1) - spanned).clamp_min(0).sqrt()
        return self.scale.float() * residual - torch.logsumexp(layer(features).float(), dim=1)


class MaxVirtualLogit(nn.ModuleList):
    """The OOD score of networks side by side: that of the member that finds an image the strangest."""

    def __init__(self, members: Iterable[VirtualLogit]) -> None:
        super().__init__(members)

    def forward(self, features: Tensor, layer: MeanOfLogits) -> Tensor:
        """Return float32[N].

        Args:
            features: float[N, F], those of all members in a row.
            layer: of the ensemble.
        """
        each = zip(self, layer.each(features), strict=True)
        return torch.stack([of(its, its_layer) for of, (its, its_layer) in each]).amax(0)
