"""Networks that serve as one by the mean of their logits.

Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles". The mean of logits is again one linear layer on the concatenated features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Ensemble(nn.ModuleList):
    """Backbones of one architecture: float[N, C, S, S] to the mean of their logits.

    Attributes:
        input_sizes: of each member, in pixels; larger images are downsampled for it.
    """

    def __init__(self, members: Iterable[nn.Module], input_sizes: Iterable[int]) -> None:
        super().__init__(members)
        self.input_sizes = tuple(input_sizes)
        if len(self.input_sizes) != len(self):
            raise ValueError(f"{len(self)} members, {len(self.input_sizes)} input sizes")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of each member."""
        return [member.forward_features(resized) for member, resized in self.inputs(images)]

    def forward_intermediates(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the feature maps of each member, and the output of each stage of each member.

        Only for members that have a method of this name, as `EfficientNetLite` and timm's networks.
        """
        of_members = [member.forward_intermediates(own) for member, own in self.inputs(images)]
        return [maps for maps, _ in of_members], [one for _, stages in of_members for one in stages]

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Return logits, or the members' concatenated features, float[N, F]."""
        members: Iterator[Any] = iter(self)
        heads = [
            member.forward_head(own, pre_logits=pre_logits)
            for member, own in zip(members, maps, strict=True)
        ]
        return torch.cat(heads, dim=1) if pre_logits else torch.stack(heads).mean(0)

    def get_classifier(self) -> nn.Module | None:
        """Return the layer that maps features to logits; None if a member's is not a module."""
        members: Iterator[Any] = iter(self)
        layers = [member.get_classifier() for member in members]
        return MeanOfLogits(layers) if all(isinstance(n, nn.Module) for n in layers) else None

    def inputs(self, images: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Yield every member with the images at its input size."""
        for member, size in zip(self, self.input_sizes, strict=True):
            yield member, resize(images, size)


class MeanOfLogits(nn.Module):
    """The members' last layers: their concatenated features, float[N, F], to the mean of logits."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        return torch.stack([layer(own) for own, layer in self.by_member(features)]).mean(0)

    def by_member(self, features: Tensor) -> Iterator[tuple[Tensor, nn.Module]]:
        """Return every member's features and layer."""
        parts = features.chunk(len(self.layers), dim=1)
        return zip(parts, self.layers, strict=True)


def members_of(module: nn.Module) -> list[Any]:
    """Return the members of a backbone or an OOD score; of a single network, itself."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def resize(images: Tensor, size: int) -> Tensor:
    """Return images [N, C, S, S] at another size, antialiased; as float32 if they were integers."""
    if images.shape[-1] == size:
        return images
    return nn.functional.interpolate(
        images.float(), size=(size, size), mode="bilinear", antialias=True
    ).to(images.dtype if images.is_floating_point() else torch.float32)
