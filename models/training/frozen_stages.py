"""First stages of a network that keep their starting weights while the rest learns."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.fused import FusedStages, fuse_first_stages
from models.networks import BodyPartClassifier
from transforms.core.errors import UsageError


class FrozenStages:
    """The stem and the first stages: fixed weights, batch statistics that move until `freeze_statistics`.

    Attributes:
        fused: what computes them once they have settled, if there is such.

    What an edge is need not be learnt again, and these stages cost most of the time. Once their
    statistics are those of images, nothing about them changes any more: then they are evaluated as in
    serving, and on a CPU EfficientNet-Lites without gradients and fused (`models/fused.py`).
    """

    def __init__(self, network: BodyPartClassifier, stages: int) -> None:
        """Fix the weights.

        Args:
            network: of any architecture, if no stages are to be fixed.
            stages: how many; 0: not even the stem.

        Raises:
            UsageError: the architecture is not made of a stem and stages as EfficientNets are.
        """
        self.network, self.stages = network, stages
        self._parts = _first_parts(network.backbone, stages) if stages else []
        for part in self._parts:
            part.requires_grad_(requires_grad=False)
        self.fused: FusedStages | None = None

    def freeze_statistics(self, side: int) -> None:
        """Fix the batch statistics too, as they are now, for images of `side` pixels.

        To be called whenever the network has been put in training mode.
        """
        for part in self._parts:
            part.eval()
        if self._parts and self.fused is None:
            self.fused = fuse_first_stages(self.network.backbone, self.stages, side)

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the maps of the whole network for [N, 1, S, S] in 0..255."""
        images, backbone = self.network.normalize(images), self.network.backbone
        maps: Tensor
        if self.fused is None:
            maps = backbone.forward_features(images)
            return maps
        with torch.no_grad():
            maps = torch.cat([self.fused(part) for part in torch.split(images, self.fused.images)])
        maps = backbone.forward_remaining_stages(maps, self.stages)
        return maps


def _first_parts(backbone: nn.Module, stages: int) -> list[nn.Module]:
    parts = [getattr(backbone, name, None) for name in ("conv_stem", "bn1", "blocks")]
    if not all(isinstance(part, nn.Module) for part in parts):
        raise UsageError("--freeze: the architecture has no stages; give 0")
    stem, norm, blocks = cast("list[nn.Module]", parts)
    return [stem, norm, *list(blocks.children())[:stages]]
