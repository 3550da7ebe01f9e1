"""EfficientNet-Lite, the architecture of the default model, without timm, which is slow to import.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", in the
authors' Lite variants: no squeeze-and-excitation, ReLU6. Parameter names and outputs are timm's, but
`forward_intermediates` returns the outputs of all seven stages, timm's those before each reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import dropout, pad


class Scale(NamedTuple):
    """Multipliers of the number of channels and of blocks."""

    width: float
    depth: float


class Stage(NamedTuple):
    """Blocks of one resolution, for Lite0."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


VARIANTS: Final = {
    "tf_efficientnet_lite0": Scale(1.0, 1.0),
    "tf_efficientnet_lite1": Scale(1.0, 1.1),
    "tf_efficientnet_lite2": Scale(1.1, 1.2),
    "tf_efficientnet_lite3": Scale(1.2, 1.4),
    "tf_efficientnet_lite4": Scale(1.4, 1.8),
}
"""By timm name."""
STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS: Final = 32
HEAD_CHANNELS: Final = 1280
BATCH_NORM_EPS: Final = 1e-3
CHANNEL_DIVISOR: Final = 8
MIN_CHANNEL_SHARE: Final = 0.9
"""Minimum share of the channels that rounding keeps."""


class EfficientNetLite(nn.Module):
    """One variant: float[N, in_chans, H, W] to logits float[N, num_classes]."""

    def __init__(
        self, variant: str, *, in_chans: int = 3, num_classes: int = 1000, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        scale = VARIANTS[variant]
        self.drop_rate = drop_rate
        self.conv_stem = SameConv2d(in_chans, STEM_CHANNELS, 3, stride=2)
        self.bn1 = _batch_norm(STEM_CHANNELS)
        self.act = nn.ReLU6(inplace=True)
        stages, channels = [], STEM_CHANNELS
        for stage in STAGES:
            is_scaled = stage not in (STAGES[0], STAGES[-1])
            count = math.ceil(stage.blocks * scale.depth) if is_scaled else stage.blocks
            blocks: list[nn.Module] = []
            width = _round_channels(stage.channels * scale.width)
            for number in range(count):
                stride = 1 if number else stage.stride
                if stage.expansion == 1:
                    blocks.append(SeparableBlock(channels, width, stage.kernel, stride))
                else:
                    blocks.append(
                        InvertedResidual(channels, width, stage.kernel, stride, stage.expansion)
                    )
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConv2d(channels, HEAD_CHANNELS, 1)
        self.bn2 = _batch_norm(HEAD_CHANNELS)
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return feature maps, float[N, HEAD_CHANNELS, H / 32, W / 32]."""
        return self.forward_intermediates(images)[0]

    def forward_intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return feature maps as `forward_features`, and the output of each stage."""
        outputs = outputs_of(self.blocks, self._forward_stem(images))
        return self._forward_last(outputs[-1]), outputs[1:]

    def forward_first_stages(self, images: Tensor, stages: int) -> Tensor:
        """Return the output of the stem and the first `stages` stages."""
        return outputs_of(self.blocks[:stages], self._forward_stem(images))[-1]

    def forward_remaining_stages(self, maps: Tensor, stages: int) -> Tensor:
        """Return feature maps from the output of `forward_first_stages` with the same `stages`."""
        return self._forward_last(outputs_of(self.blocks[stages:], maps)[-1])

    def _forward_stem(self, images: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn1(self.conv_stem(images)))
        return out

    def _forward_last(self, maps: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn2(self.conv_head(maps)))
        return out

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with `pre_logits` the pooled features, float[N, HEAD_CHANNELS]."""
        pooled = dropout(maps.mean((2, 3)), self.drop_rate, self.training)
        return pooled if pre_logits else self.get_classifier()(pooled)

    def get_classifier(self) -> nn.Module:
        """Return the layer that maps features to logits."""
        return self.classifier


def outputs_of(stages: Iterable[nn.Module], maps: Tensor) -> list[Tensor]:
    """Return the input of successive stages, `maps`, and the output of each."""
    return list(accumulate(stages, lambda out, stage: stage(out), initial=maps))


class SameConv2d(nn.Conv2d):
    """A convolution without bias and with TensorFlow's SAME padding: an odd pixel goes to the end."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        even = kernel // 2 if stride == 1 else 0
        super().__init__(
            channels, out_channels, kernel, stride, padding=even, groups=groups, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        if self.stride[0] > 1:
            height, width = input.shape[-2:]
            sides = (
                same_padding(size, self.kernel_size[0], self.stride[0]) for size in (width, height)
            )
            input = pad(input, [pixels for side in sides for pixels in side])
        return super().forward(input)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding before and after a side of `size` pixels."""
    missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


class SeparableBlock(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels, channels, kernel, stride=stride, groups=channels)
        self.bn1 = _batch_norm(channels)
        self.act = nn.ReLU6(inplace=True)
        self.conv_pw = SameConv2d(channels, out_channels, 1)
        self.bn2 = _batch_norm(out_channels)
        self.has_skip = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return features."""
        out: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return out + x if self.has_skip else out


class InvertedResidual(nn.Module):
    """An inverted residual block: expand, depthwise convolution, project."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw = SameConv2d(channels, wide, 1)
        self.bn1 = _batch_norm(wide)
        self.act = nn.ReLU6(inplace=True)
        self.conv_dw = SameConv2d(wide, wide, kernel, stride=stride, groups=wide)
        self.bn2 = _batch_norm(wide)
        self.conv_pwl = SameConv2d(wide, out_channels, 1)
        self.bn3 = _batch_norm(out_channels)
        self.has_skip = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return features."""
        out: Tensor = self.act(self.bn2(self.conv_dw(self.act(self.bn1(self.conv_pw(x))))))
        out = self.bn3(self.conv_pwl(out))
        return out + x if self.has_skip else out


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


def _round_channels(channels: float) -> int:
    step = CHANNEL_DIVISOR
    rounded = max(step, int(channels + step / 2) // step * step)
    return rounded + step if rounded < MIN_CHANNEL_SHARE * channels else rounded
