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
    """Backbones of one architecture: float[N, C, S, S] to the mean of their logits.

    Attributes:
        sides: of each member's images, in pixels; larger ones are shrunk for it.
    """

    def __init__(self, members: Iterable[nn.Module], sides: Iterable[int]) -> None:
        super().__init__(members)
        self.sides = tuple(sides)
        if len(self.sides) != len(self):
            raise ValueError(f"{len(self)} members, {len(self.sides)} sides")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return torch.stack([of(its) for of, its in self._each(images)]).mean(0)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of each member."""
        return [of.forward_features(its) for of, its in self._each(images)]

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Return logits, or the members' features in a row, float[N, F]."""
        members: Iterator[Any] = iter(self)
        heads = [
            of.forward_head(its, pre_logits=pre_logits)
            for of, its in zip(members, maps, strict=True)
        ]
        return torch.cat(heads, dim=1) if pre_logits else torch.stack(heads).mean(0)

    def get_classifier(self) -> nn.Module | None:
        """Return what makes logits of features; None where that is no module of the members'."""
        members: Iterator[Any] = iter(self)
        layers = [of.get_classifier() for of in members]
        return MeanOfLogits(layers) if all(isinstance(n, nn.Module) for n in layers) else None

    def _each(self, images: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Give every member and the images as it wants them."""
        for member, side in zip(self, self.sides, strict=True):
            yield member, resize(images, side)


class MeanOfLogits(nn.Module):
    """The last layers of members: float[N, F], their features in a row, to logits."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        return torch.stack([layer(its) for its, layer in self.each(features)]).mean(0)

    def each(self, features: Tensor) -> Iterator[tuple[Tensor, nn.Module]]:
        """Give every member's features and layer."""
        parts = features.chunk(len(self.layers), dim=1)
        return zip(parts, self.layers, strict=True)


def members_of(module: nn.Module) -> list[Any]:
    """Return what stands side by side in a backbone or an OOD score; itself if it is of one network."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def resize(images: Tensor, side: int) -> Tensor:
    """Return images [N, C, S, S] at another size, averaged where they shrink."""
    if images.shape[-1] == side:
        return images
    return nn.functional.interpolate(
        images.float(), size=(side, side), mode="bilinear", antialias=True
    ).to(images.dtype if images.is_floating_point() else torch.float32)
