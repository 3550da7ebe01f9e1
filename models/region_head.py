"""The second head: anatomic regions finer than the labels, by one linear layer on the frozen features.

`models.training.calibration.fit_regions` fits it. Labels, their probabilities and the OOD score do not
depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bundle import RegionsInfo


class RegionHead(nn.Module):
    """Maps features to calibrated probabilities of regions.

    Attributes:
        weight: float[n_regions, F].
        bias: float[n_regions].
        info: what the bundle says about the regions, in the order of the outputs.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, info: RegionsInfo) -> None:
        super().__init__()
        if len(weight) != len(info.names) or bias.shape != weight.shape[:1]:
            raise TypeError(f"{len(weight)} outputs for {len(info.names)} regions")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.info = info

    def forward(self, features: Tensor) -> Tensor:
        """Return probabilities, float32[N, n_regions], which sum to 1, for features float[N, F]."""
        logits = features.float() @ self.weight.float().T + self.bias.float()
        return torch.softmax(logits / self.info.temperature, dim=1)
