"""OOD score: a virtual logit, the residual of the features offset by the energy, plus an outlier logit.

Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching", for what is unlike the training
images; `models.training.calibration.fit_vim` fits it. A linear layer on the frozen features for what is
like other images that are not radiographs (Hendrycks et al. 2019, "Deep Anomaly Detection with Outlier
Exposure"); `models.training.calibration.fit_outliers` fits it. Bundles of earlier releases have the
higher of the two instead of their sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.ensemble import MeanOfLogits


class VirtualLogit(nn.Module):
    """The OOD score of one network: the virtual logit, with an outlier logit if there is one.

    Attributes:
        mean: float[F], of the training images' features.
        axes: float[F, D], orthonormal basis of their principal subspace.
        scale: float[], brings residuals to the magnitude of logits.
        added_weight: float[F], of the outlier logit that is added; None if there is none.
        added_bias: float[].
        outlier_weight: float[F], of the outlier logit of earlier releases, which replaces a lower virtual
            logit; None if there is none.
        outlier_bias: float[].
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    added_weight: Tensor | None
    added_bias: Tensor | None
    outlier_weight: Tensor | None
    outlier_bias: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        axes: Tensor,
        scale: Tensor,
        added_weight: Tensor | None = None,
        added_bias: Tensor | None = None,
        outlier_weight: Tensor | None = None,
        outlier_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("scale", scale)
        self.register_buffer("added_weight", added_weight)
        self.register_buffer("added_bias", added_bias)
        self.register_buffer("outlier_weight", outlier_weight)
        self.register_buffer("outlier_bias", outlier_bias)

    def forward(self, features: Tensor, layer: nn.Module) -> Tensor:
        """Return scores, float32[N]; higher is less like the training images.

        Args:
            features: float[N, F].
            layer: maps features to logits, float[N, n_labels].
        """
        centered = features.float() - self.mean.float()
        in_subspace = (centered @ self.axes.float()).square().sum(1)
        residual = (centered.square().sum(1) - in_subspace).clamp_min(0).sqrt()
        score = self.scale.float() * residual - torch.logsumexp(layer(features).float(), dim=1)
        if self.added_weight is not None and self.added_bias is not None:
            score = score + features.float() @ self.added_weight.float() + self.added_bias.float()
        if self.outlier_weight is None or self.outlier_bias is None:
            return score
        logit = features.float() @ self.outlier_weight.float() + self.outlier_bias.float()
        return torch.maximum(score, logit)


class VirtualLogits(nn.ModuleList):
    """The OOD score of an ensemble: the mean of its members'; in earlier releases the highest."""

    def __init__(self, members: Iterable[VirtualLogit]) -> None:
        super().__init__(members)
        self.is_mean = all(score.added_weight is not None for score in self)

    def forward(self, features: Tensor, layer: MeanOfLogits) -> Tensor:
        """Return scores, float32[N].

        Args:
            features: float[N, F], the members' concatenated.
            layer: of the ensemble.
        """
        members = zip(self, layer.by_member(features), strict=True)
        scores = torch.stack([score(own, own_layer) for score, (own, own_layer) in members])
        return scores.mean(0) if self.is_mean else scores.amax(0)
