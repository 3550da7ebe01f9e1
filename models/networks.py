"""The network that serves: conversion, normalisation, forward, softmax and OOD score in one module.

Everything between uint8 images and probabilities stands in `forward`, so that it holds in whatever
process Beam runs the model (context managers around a call do not cross its model server).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models import efficientnet_lite
from models.ensemble import Ensemble
from models.ood_vim import MaxVirtualLogit, VirtualLogit

WHITE = 255.0


class BodyPartClassifier(nn.Module):
    """Backbones, named as in timm, on single-channel images, with calibrated probabilities.

    Attributes:
        labels: label of each output, in order.
        temperature: divisor of the logits before the softmax (Guo et al. 2017, "On Calibration of
            Modern Neural Networks"); 1.0 leaves them as they are.
        ood: what makes the OOD score, if it is more than the energy.

    Args:
        architecture: a name in timm.
        labels: of the outputs.
        members: side of the images of each of several networks side by side, in pixels; empty for one.
        temperature: see above.
        drop_rate: of features, in training.
    """

    def __init__(
        self,
        architecture: str,
        labels: tuple[str, ...],
        *,
        members: Sequence[int] = (),
        temperature: float = 1.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.temperature = temperature
        self.ood: VirtualLogit | MaxVirtualLogit | None = None
        made = [_backbone(architecture, len(labels), drop_rate) for _ in range(len(members) or 1)]
        self.backbone: Any = Ensemble(made, members) if members else made[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return float[N, n_labels] for uint8[N, 1, S, S]."""
        out: Tensor = self.backbone(self.normalize(images))
        return out

    def features(self, images: Tensor) -> Tensor:
        """Return float[N, F], what the last layer makes logits of, for uint8[N, 1, S, S]."""
        maps = self.backbone.forward_features(self.normalize(images))
        out: Tensor = self.backbone.forward_head(maps, pre_logits=True)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: uint8[N, 1, S, S].

        Returns:
            float32[N, n_labels + 1]: probabilities that sum to 1, then the OOD score; higher means
            less like the training images. It is the energy -log sum exp(logits) of Liu et al. 2020,
            "Energy-based Out-of-distribution Detection", where there is no `ood`.
        """
        if self.ood is None:
            logits = self.logits(images).float()
            score = -torch.logsumexp(logits, dim=1)
        else:
            features = self.features(images)
            layer = self.backbone.get_classifier()
            logits = layer(features).float()
            score = self.ood(features, layer)
        probabilities = torch.softmax(logits / self.temperature, dim=1)
        return torch.cat((probabilities, score[:, None]), dim=1)

    def normalize(self, images: Tensor) -> Tensor:
        """Return float[N, 1, S, S] in -1..1, what backbones see, for [N, 1, S, S] in 0..255."""
        normalize = images.to(self.dtype, copy=True).mul_(2.0 / WHITE).sub_(1.0)
        return normalize.contiguous(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are: the only truth about the device in use."""
        return next(self.parameters()).device


def _backbone(architecture: str, outputs: int, drop_rate: float) -> nn.Module:
    """Return a network on single-channel images by its name in timm."""
    options: dict[str, Any] = {"in_chans": 1, "num_classes": outputs, "drop_rate": drop_rate}
    if architecture in efficientnet_lite.CORRUPTIONS:
        return efficientnet_lite.EfficientNetLite(architecture, **options)
    import timm  # takes seconds to import: only for networks that are not ours

    network: nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return network
