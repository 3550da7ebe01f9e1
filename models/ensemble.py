"""Networks side by side that serve as one.

Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", here by the mean of logits: of the features of all in a row, that is again one linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Ensemble(nn.ModuleList):
    """Backbones of one architecture: float[N, C, H, W] to the mean of their logits."""

    def __init__(self, members: Iterable[Any]) -> None:
        super().__init__(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return torch.stack([member(images) for member in self]).mean(0)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of each member."""
        return [member.forward_features(images) for member in self._each()]

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Return logits, or the members' features in a row, float[N, F]."""
        heads = [
            member.forward_head(of, pre_logits=pre_logits)
            for member, of in zip(self._each(), maps, strict=True)
        ]
        return torch.cat(heads, dim=1) if pre_logits else torch.stack(heads).mean(0)

    def get_classifier(self) -> nn.Module | None:
        """Return what makes logits of features; None where that is no module of the members'."""
        layers = [member.get_classifier() for member in self._each()]
        return MeanOfLogits(layers) if all(isinstance(n, nn.Module) for n in layers) else None

    def _each(self) -> Iterator[Any]:
        return iter(self)


class MeanOfLogits(nn.Module):
    """The last layers of members: float[N, F], their features in a row, to logits."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        parts = features.chunk(len(self.layers), dim=1)
        return torch.stack([of(part) for of, part in zip(self.layers, parts, strict=True)]).mean(0)


def members_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the networks that a backbone is made of."""
    return list(backbone) if isinstance(backbone, Ensemble) else [backbone]


def side_by_side(members: Sequence[nn.Module]) -> nn.Module:
    """Return networks as one backbone: the network itself where it is alone."""
    return Ensemble(members) if len(members) > 1 else members[0]
