"""OOD score: a virtual logit, the residual of the features offset by the energy, plus an outlier logit.

Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching", for what is unlike the training
images; `models.training.calibration.fit_vim` fits it. A linear layer on the frozen network for what is
like other images that are not radiographs (Hendrycks et al. 2019, "Deep Anomaly Detection with Outlier
Exposure"); `models.training.calibration.fit_outliers` fits it. It takes the features and, as other
modalities differ from radiographs in texture too, the mean and deviation of each channel of all stages.
Bundles of earlier releases have no statistics of stages, or the higher of the two instead of their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from models.ensemble import MeanOfLogits

VARIANCE_EPS: Final = 1e-4
"""Added to variances, so that rounding errors of constant channels remain small in the deviation."""


class VirtualLogit(nn.Module):
    """The OOD score of one network: the virtual logit, with an outlier logit if there is one.

    Attributes:
        mean: float[F], of the training images' features.
        axes: float[F, D], orthonormal basis of their principal subspace.
        scale: float[], brings residuals to the magnitude of logits.
        added_weight: float[F], of the outlier logit that is added; None if there is none.
        added_bias: float[].
        statistics_weight: float[S], of the stages' statistics in the outlier logit; None if it has none.
        outlier_weight: float[F], of the outlier logit of earlier releases, which replaces a lower virtual
            logit; None if there is none.
        outlier_bias: float[].
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    added_weight: Tensor | None
    added_bias: Tensor | None
    statistics_weight: Tensor | None
    outlier_weight: Tensor | None
    outlier_bias: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        axes: Tensor,
        scale: Tensor,
        added_weight: Tensor | None = None,
        added_bias: Tensor | None = None,
        statistics_weight: Tensor | None = None,
        outlier_weight: Tensor | None = None,
        outlier_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("scale", scale)
        self.register_buffer("added_weight", added_weight)
        self.register_buffer("added_bias", added_bias)
        self.register_buffer("statistics_weight", statistics_weight)
        self.register_buffer("outlier_weight", outlier_weight)
        self.register_buffer("outlier_bias", outlier_bias)

    @property
    def uses_statistics(self) -> bool:
        """Whether `forward` needs the statistics of the stages."""
        return self.statistics_weight is not None

    def forward(
        self, features: Tensor, layer: nn.Module, statistics: Tensor | None = None
    ) -> Tensor:
        """Return scores, float32[N]; higher is less like the training images.

        Args:
            features: float[N, F].
            layer: maps features to logits, float[N, n_labels].
            statistics: float32[N, S], of the stages; see `stage_statistics`.
        """
        centered = features.float() - self.mean.float()
        in_subspace = (centered @ self.axes.float()).square().sum(1)
        residual = (centered.square().sum(1) - in_subspace).clamp_min(0).sqrt()
        score = self.scale.float() * residual - torch.logsumexp(layer(features).float(), dim=1)
        if self.added_weight is not None and self.added_bias is not None:
            score = score + features.float() @ self.added_weight.float() + self.added_bias.float()
        if self.statistics_weight is not None:
            assert statistics is not None
            score = score + statistics @ self.statistics_weight.float()
        if self.outlier_weight is None or self.outlier_bias is None:
            return score
        logit = features.float() @ self.outlier_weight.float() + self.outlier_bias.float()
        return torch.maximum(score, logit)


class VirtualLogits(nn.ModuleList):
    """The OOD score of an ensemble: the mean of its members'; in earlier releases the highest."""

    def __init__(self, members: Iterable[VirtualLogit]) -> None:
        super().__init__(members)
        self.is_mean = all(score.added_weight is not None for score in self)

    @property
    def uses_statistics(self) -> bool:
        """Whether `forward` needs the statistics of the stages."""
        return any(score.uses_statistics for score in self)

    def forward(
        self, features: Tensor, layer: MeanOfLogits, statistics: Tensor | None = None
    ) -> Tensor:
        """Return scores, float32[N].

        Args:
            features: float[N, F], the members' concatenated.
            layer: of the ensemble.
            statistics: float32[N, S], of the members' stages, concatenated.
        """
        parts = [None] * len(self) if statistics is None else statistics.chunk(len(self), dim=1)
        members = zip(self, layer.by_member(features), parts, strict=True)
        scores = torch.stack([score(own, of, part) for score, (own, of), part in members])
        return scores.mean(0) if self.is_mean else scores.amax(0)


def stage_statistics(stages: Sequence[Tensor]) -> Tensor:
    """Return the mean and the standard deviation of each channel, float32[N, S].

    Args:
        stages: the output of each stage, float[N, C, H, W].
    """
    pooled = [torch.var_mean(maps.float(), (2, 3), correction=0) for maps in stages]
    parts = [part for var, mean in pooled for part in (mean, (var + VARIANCE_EPS).sqrt())]
    return torch.cat(parts, dim=1)
