"""EfficientNet-Lite for serving on a CPU: the same values from a third of the processor time.

Batch norms are folded into the convolutions before them, ReLU6 and the skip's sum are done by the
convolution itself, padding is the convolution's own, and weights are packed for oneDNN once, not in each
forward. The operators are those that torch's own compiler emits; no compiler is needed here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.efficientnet_lite import (
    EfficientNetLite,
    InvertedResidual,
    SeparableBlock,
    same_padding,
)
from models.ensemble import Ensemble, members_of
from models.networks import BodyPartClassifier

LOG = logging.getLogger(__name__)
TOLERANCE: Final = 1e-4
"""Most that a value may differ by from the plain network's: thresholds have two digits."""
RELATIVE: Final = 1e-3
"""The same of maps, which have no scale."""
CLAMP: Final = ("hardtanh", [0.0, 6.0])
"""ReLU6, as oneDNN's operators name it."""
NO_CLAMP: Final[tuple[str, list[float]]] = ("none", [])
UNDILATED: Final = [1, 1]
Block: TypeAlias = SeparableBlock | InvertedResidual
CPU_FORWARD_BATCH: Final = 8
"""Images in one forward on the CPU, short ones filled up: results then do not depend on neighbours."""


def fuse(network: BodyPartClassifier, side: int, images: int = CPU_FORWARD_BATCH) -> None:
    """Let a classifier serve by a fused backbone, where there is one and it gives the same values.

    Args:
        network: on the CPU, ready for inference.
        side: of an image, in pixels; others give wrong values afterwards.
        images: in each forward; any other number works, and is slower.
    """
    plain = network.backbone
    members = [member for member in members_of(plain) if isinstance(member, EfficientNetLite)]
    if len(members) < len(members_of(plain)) or network.dtype != torch.float32:
        return
    noise = torch.Generator().manual_seed(0)
    probe = torch.randint(256, (images, 1, side, side), generator=noise, dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(probe[-1:])
        try:
            if isinstance(plain, Ensemble):
                each = zip(members, plain.sides, strict=True)
                network.backbone = Ensemble(
                    (FusedEfficientNetLite(m, images, its_side) for m, its_side in each),
                    plain.sides,
                )
            else:
                network.backbone = FusedEfficientNetLite(members[0], images, side)
            difference = float((network(probe)[-1:] - expected).abs().max())
        except (AttributeError, RuntimeError, TypeError) as error:
            network.backbone = plain
            LOG.info("no fused backbone on this machine (%s): serving is slower", error)
            return
    if not difference <= TOLERANCE:
        network.backbone = plain
        LOG.warning("the fused backbone's values differ by %.1g: serving without it", difference)


def fuse_first_stages(plain: nn.Module, stages: int, side: int) -> FusedStages | None:
    """Return the stem and the first stages of a network on the CPU, for images of one size.

    Returns:
        None where the network has no fused ones, or they give other values.
    """
    if not isinstance(plain, EfficientNetLite) or plain.conv_stem.weight.device.type != "cpu":
        return None
    noise = torch.Generator().manual_seed(0)
    probe = torch.rand(CPU_FORWARD_BATCH, 1, side, side, generator=noise)
    with torch.no_grad():
        expected = plain.forward_first_stages(probe, stages)
        try:
            start = FusedStages(plain, Size(CPU_FORWARD_BATCH, side), stages)
            has_same_content = torch.allclose(start(probe), expected, rtol=RELATIVE, atol=RELATIVE)
        except (AttributeError, RuntimeError, TypeError) as error:
            LOG.info("no fused stages on this machine (%s): training is slower", error)
            return None
    if not has_same_content:
        LOG.warning("the fused stages' values differ: training without them")
        return None
    return start


class FusedEfficientNetLite(nn.Module):
    """What an `EfficientNetLite` computes, for images of one size, without gradients."""

    def __init__(self, plain: EfficientNetLite, images: int, side: int) -> None:
        super().__init__()
        size = Size(images, side)
        self.stages = FusedStages(plain, size, len(plain.blocks))
        self.head = FusedConv2d(plain.conv_head, plain.bn2, size, CLAMP)
        self.classifier = plain.classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return feature maps as `EfficientNetLite` does."""
        out: Tensor = self.head(self.stages(images))
        return out

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the features that they are computed from."""
        pooled = maps.mean((2, 3))
        out: Tensor = pooled if pre_logits else self.classifier(pooled)
        return out

    def get_classifier(self) -> nn.Module:
        """Return what makes logits of features."""
        return self.classifier


class Size:
    """Images in a forward and the side of their maps, as convolutions are laid one after the other."""

    def __init__(self, images: int, side: int) -> None:
        self.images, self.side = images, side


class FusedStages(nn.Module):
    """The stem and the first stages of an `EfficientNetLite`, without gradients."""

    def __init__(self, plain: EfficientNetLite, size: Size, stages: int) -> None:
        super().__init__()
        self.images = size.images
        self.stem = FusedConv2d(plain.conv_stem, plain.bn1, size, CLAMP)
        self.blocks = nn.ModuleList(
            FusedBlock(block, size)
            for block in plain.blocks[:stages].modules()
            if isinstance(block, Block)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return maps, as `EfficientNetLite.forward_first_stages` does."""
        maps: Tensor = self.stem(images)
        for block in self.blocks:
            maps = block(maps)
        return maps


class FusedBlock(nn.Module):
    """Convolutions in a row; the last of them adds what the first was given, where there is a skip."""

    def __init__(self, block: Block, size: Size) -> None:
        super().__init__()
        *before, (conv, norm) = _convolutions(block)
        self.before = nn.ModuleList(FusedConv2d(c, n, size, CLAMP) for c, n in before)
        self.last = FusedConv2d(conv, norm, size, NO_CLAMP)
        self.has_skip = block.has_skip

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps."""
        out = maps
        for conv in self.before:
            out = conv(out)
        return self.last.added(out, maps) if self.has_skip else self.last(out)


class FusedConv2d(nn.Module):
    """A convolution that pads, normalises and clamps, with packed weights."""

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d, size: Size, clamp: tuple[str, list[float]]
    ) -> None:
        super().__init__()
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        near, far = same_padding(size.side, kernel, stride)
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # oneDNN's operator pads alike on all sides: a row and a column of zeros take up what is too much
        even = pad(weight, (far - near, 0, far - near, 0)).detach()
        self._bias = bias.detach()
        self._how = ([far, far], [stride, stride], UNDILATED, conv.groups)
        self._clamp = clamp
        shape = [size.images, conv.in_channels, size.side, size.side]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(even, *self._how, shape)
        size.side = math.ceil(size.side / stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self._weight, self._bias, *self._how, *self._clamp, ""
        )
        return out

    def added(self, maps: Tensor, skipped: Tensor) -> Tensor:
        """Return the sum of what comes out and `skipped`."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            maps, skipped, self._weight, self._bias, *self._how, "add", 1.0, None, [], None
        )
        return out


def _convolutions(
    block: Block,
) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    if isinstance(block, InvertedResidual):
        yield block.conv_pw, block.bn1
        yield block.conv_dw, block.bn2
        yield block.conv_pwl, block.bn3
    else:
        yield block.conv_dw, block.bn1
        yield block.conv_pw, block.bn2
