"""First stages of a network that keep their initial weights during a training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.fused import FusedStages, fuse_first_stages
from models.networks import BodyPartClassifier
from transforms.core.errors import UsageError


class FrozenStages:
    """The stem and first stages, with fixed weights.

    Edge detectors need not be learned again, and these stages take most of the time. Their batch
    statistics adapt to the images until `freeze_statistics`; then the stages are evaluated as in
    inference, and EfficientNet-Lites on a CPU without gradients and fused; see `models.fused`.

    Attributes:
        fused: computes the stages once their statistics are frozen, if available.
    """

    def __init__(self, network: BodyPartClassifier, stages: int) -> None:
        """Fix the weights.

        Args:
            network: of any architecture if `stages` is 0.
            stages: how many; 0 does not freeze the stem either.

        Raises:
            UsageError: The architecture does not have a stem and stages as EfficientNets do.
        """
        self.network, self.stages = network, stages
        self._parts = _first_parts(network.backbone, stages) if stages else []
        for part in self._parts:
            part.requires_grad_(requires_grad=False)
        self.fused: FusedStages | None = None

    def freeze_statistics(self, input_size: int) -> None:
        """Fix the batch statistics for images of a size; call again after `network.train()`."""
        for part in self._parts:
            part.eval()
        if self._parts and self.fused is None:
            self.fused = fuse_first_stages(self.network.backbone, self.stages, input_size)

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the feature maps of the whole network for [N, 1, S, S] in 0..255."""
        inputs, backbone = self.network.normalize(images), self.network.backbone
        maps: Tensor
        if self.fused is None:
            maps = backbone.forward_features(inputs)
            return maps
        with torch.no_grad():
            parts = torch.split(inputs, self.fused.batch_size)
            maps = torch.cat([self.fused(part) for part in parts])
        maps = backbone.forward_remaining_stages(maps, self.stages)
        return maps


def _first_parts(backbone: nn.Module, stages: int) -> list[nn.Module]:
    parts = [getattr(backbone, name, None) for name in ("conv_stem", "bn1", "blocks")]
    if not all(isinstance(part, nn.Module) for part in parts):
        raise UsageError("--freeze: the architecture has no stages; give 0")
    stem, norm, blocks = cast("list[nn.Module]", parts)
    return [stem, norm, *list(blocks.children())[:stages]]
