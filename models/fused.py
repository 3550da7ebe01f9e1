"""EfficientNet-Lite for inference on a CPU: the same values in a third of the processor time.

Batch norms are folded into the preceding convolutions, which also apply ReLU6, the residual sum and the
padding; weights are reordered for oneDNN once instead of in every forward pass. The operators are those
that torch's compiler emits; no compiler is needed here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.efficientnet_lite import (
    EfficientNetLite,
    InvertedResidual,
    SeparableBlock,
    outputs_of,
    same_padding,
)
from models.ensemble import Ensemble, members_of
from models.networks import BodyPartClassifier
from models.shared_stages import shared_stages

LOG = logging.getLogger(__name__)
TOLERANCE: Final = 1e-4
"""Maximum difference of probabilities and OOD scores from the plain network's."""
RELATIVE_TOLERANCE: Final = 1e-3
"""The same for feature maps."""
CLAMP: Final = ("hardtanh", [0.0, 6.0])
"""ReLU6 in the terms of oneDNN's operators."""
NO_CLAMP: Final[tuple[str, list[float]]] = ("none", [])
NO_DILATION: Final = [1, 1]
Block: TypeAlias = SeparableBlock | InvertedResidual
CPU_FORWARD_BATCH: Final = 8
"""Images per forward pass on a CPU. Short batches are padded, so that a result does not depend on the
other images of its batch."""


def fuse(network: BodyPartClassifier, input_size: int, batch_size: int = CPU_FORWARD_BATCH) -> None:
    """Replace the backbone by a fused one, if there is one and it gives the same values.

    Args:
        network: on the CPU, in evaluation mode; modified in place.
        input_size: side of the images, in pixels; images of other sizes give wrong values afterwards.
        batch_size: images per forward pass; other numbers work, but more slowly.
    """
    plain = network.backbone
    members = [member for member in members_of(plain) if isinstance(member, EfficientNetLite)]
    if len(members) < len(members_of(plain)) or network.dtype != torch.float32:
        return
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, input_size, input_size)
    probe = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(probe[-1:])
        try:
            if isinstance(plain, Ensemble):
                network.backbone = FusedEnsemble(members, plain.input_sizes, batch_size)
            else:
                network.backbone = FusedEfficientNetLite(members[0], batch_size, input_size)
            difference = float((network(probe)[-1:] - expected).abs().max())
        except (AttributeError, RuntimeError, TypeError) as error:
            network.backbone = plain
            LOG.info("no fused backbone on this machine (%s): inference is slower", error)
            return
    if not difference <= TOLERANCE:
        network.backbone = plain
        LOG.warning("the fused backbone's values differ by %.1g: not used", difference)


def fuse_first_stages(plain: nn.Module, stages: int, input_size: int) -> FusedStages | None:
    """Return the fused stem and first stages of a network, for images of one size.

    Returns:
        None if the network is not an EfficientNet-Lite on the CPU, or the values differ.
    """
    if not isinstance(plain, EfficientNetLite) or plain.conv_stem.weight.device.type != "cpu":
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(CPU_FORWARD_BATCH, 1, input_size, input_size, generator=generator)
    with torch.no_grad():
        expected = plain.forward_first_stages(probe, stages)
        try:
            fused = FusedStages(plain, CPU_FORWARD_BATCH, input_size, stages)
            tolerance = RELATIVE_TOLERANCE
            is_close = torch.allclose(fused(probe), expected, rtol=tolerance, atol=tolerance)
        except (AttributeError, RuntimeError, TypeError) as error:
            LOG.info("no fused stages on this machine (%s): training is slower", error)
            return None
    if not is_close:
        LOG.warning("the fused stages' values differ: not used")
        return None
    return fused


class FusedEnsemble(Ensemble):
    """An `Ensemble` whose members share the computation of first stages that are equal in all."""

    def __init__(
        self, plain: Sequence[EfficientNetLite], input_sizes: Sequence[int], batch_size: int
    ) -> None:
        shared: FusedStages | None = None
        if len(set(input_sizes)) == 1 and (stages := shared_stages(plain)):
            shared = FusedStages(plain[0], batch_size, input_sizes[0], stages)
        pairs = zip(plain, input_sizes, strict=True)
        super().__init__(
            (FusedEfficientNetLite(member, batch_size, size, shared) for member, size in pairs),
            input_sizes,
        )

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of each member."""
        return self.forward_intermediates(images)[0]

    def forward_intermediates(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the feature maps of each member, and the output of each stage of each member."""
        maps: list[Tensor] = []
        stages: list[Tensor] = []
        first, outputs = None, [images]
        for member, resized in self.inputs(images):
            if member.first is not first:
                first, outputs = member.first, member.first.outputs(resized)
            last, own = member.forward_remaining_stages(outputs)
            maps.append(last)
            stages += own
        return maps, stages


class FusedEfficientNetLite(nn.Module):
    """An `EfficientNetLite` for images of one size, without gradients.

    Attributes:
        first: the stem and first stages, which may belong to several networks.
    """

    def __init__(
        self,
        plain: EfficientNetLite,
        batch_size: int,
        input_size: int,
        first: FusedStages | None = None,
    ) -> None:
        super().__init__()
        self.first = first or FusedStages(plain, batch_size, input_size, len(plain.blocks))
        size = MapSize(batch_size, self.first.output_side)
        self.remaining = _fused_stages(plain.blocks[self.first.stages :], size)
        self.head = FusedConv2d(plain.conv_head, plain.bn2, size, CLAMP)
        self.classifier = plain.classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return feature maps as `EfficientNetLite` does."""
        return self.forward_intermediates(images)[0]

    def forward_intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return feature maps and the output of each stage as `EfficientNetLite` does."""
        return self.forward_remaining_stages(self.first.outputs(images))

    def forward_remaining_stages(self, first: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward_intermediates` does, from the outputs of `first`."""
        outputs = outputs_of(self.remaining, first[-1])
        return self.head(outputs[-1]), [*first[1:], *outputs[1:]]

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with `pre_logits` the pooled features."""
        pooled = maps.mean((2, 3))
        out: Tensor = pooled if pre_logits else self.classifier(pooled)
        return out

    def get_classifier(self) -> nn.Module:
        """Return the layer that maps features to logits."""
        return self.classifier


@dataclass
class MapSize:
    """Batch size and side of the feature maps; convolutions reduce the side as they are added."""

    batch_size: int
    side: int


class FusedStages(nn.Module):
    """The stem and first stages of an `EfficientNetLite`, without gradients.

    Attributes:
        batch_size: images per forward pass.
        stages: how many, after the stem.
        output_side: of the feature maps.
    """

    def __init__(
        self, plain: EfficientNetLite, batch_size: int, input_size: int, stages: int
    ) -> None:
        super().__init__()
        size = MapSize(batch_size, input_size)
        self.batch_size, self.stages = batch_size, stages
        self.stem = FusedConv2d(plain.conv_stem, plain.bn1, size, CLAMP)
        self.blocks = _fused_stages(plain.blocks[:stages], size)
        self.output_side = size.side

    def forward(self, images: Tensor) -> Tensor:
        """Return feature maps as `EfficientNetLite.forward_first_stages` does."""
        return self.outputs(images)[-1]

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Return the output of the stem and of each stage."""
        return outputs_of(self.blocks, self.stem(images))


class FusedBlock(nn.Module):
    """Successive convolutions; the last one adds the block's input where there is a skip."""

    def __init__(self, block: Block, size: MapSize) -> None:
        super().__init__()
        *first, (conv, norm) = _convolutions(block)
        self.first = nn.ModuleList(FusedConv2d(c, n, size, CLAMP) for c, n in first)
        self.last = FusedConv2d(conv, norm, size, NO_CLAMP)
        self.has_skip = block.has_skip

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps."""
        out = maps
        for conv in self.first:
            out = conv(out)
        return self.last.forward_add(out, maps) if self.has_skip else self.last(out)


class FusedConv2d(nn.Module):
    """A convolution with padding, batch norm and clamp, and reordered weights."""

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        size: MapSize,
        clamp: tuple[str, list[float]],
    ) -> None:
        super().__init__()
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        before, after = same_padding(size.side, kernel, stride)
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # oneDNN pads all sides alike: a row and a column of zero weights offset the surplus
        symmetric = pad(weight, (after - before, 0, after - before, 0)).detach()
        self._bias = bias.detach()
        self._arguments = ([after, after], [stride, stride], NO_DILATION, conv.groups)
        self._clamp = clamp
        shape = [size.batch_size, conv.in_channels, size.side, size.side]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            symmetric, *self._arguments, shape
        )
        size.side = math.ceil(size.side / stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self._weight, self._bias, *self._arguments, *self._clamp, ""
        )
        return out

    def forward_add(self, maps: Tensor, skipped: Tensor) -> Tensor:
        """Return the sum of the output and `skipped`."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            maps, skipped, self._weight, self._bias, *self._arguments, "add", 1.0, None, [], None
        )
        return out


def _fused_stages(stages: nn.Sequential, size: MapSize) -> nn.Sequential:
    """Return fused blocks of successive stages, in a sequence each."""
    fused = []
    for stage in stages:
        blocks = [block for block in stage.children() if isinstance(block, Block)]
        fused.append(nn.Sequential(*(FusedBlock(block, size) for block in blocks)))
    return nn.Sequential(*fused)


def _convolutions(block: Block) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    if isinstance(block, InvertedResidual):
        yield block.conv_pw, block.bn1
        yield block.conv_dw, block.bn2
        yield block.conv_pwl, block.bn3
    else:
        yield block.conv_dw, block.bn1
        yield block.conv_pw, block.bn2
