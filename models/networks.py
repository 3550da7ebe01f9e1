"""The network that serves: conversion, normalisation, forward, softmax and OOD score in one module.

Everything between uint8 films and probabilities stands in `forward`, so that it holds in whatever
process Beam runs the model (context managers around a call do not cross its model server).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WHITE = 255.0


class FilmClassifier(nn.Module):
    """A timm backbone on single-channel films, with calibrated probabilities.

    Attributes:
        labels: label of each output, in order.
        temperature: divisor of the logits before the softmax (Guo et al. 2017, "On Calibration of
            Modern Neural Networks"); 1.0 leaves them as they are.
    """

    def __init__(
        self,
        architecture: str,
        labels: tuple[str, ...],
        *,
        temperature: float = 1.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        import timm  # takes seconds to import: only where a network is built

        self.labels = labels
        self.temperature = temperature
        self.backbone = timm.create_model(
            architecture, pretrained=False, in_chans=1, num_classes=len(labels), drop_rate=drop_rate
        )

    def logits(self, films: Tensor) -> Tensor:
        """Return float[N, n_labels] for uint8[N, 1, S, S]."""
        scaled = films.to(self.dtype).mul_(2.0 / WHITE).sub_(1.0)
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.backbone(scaled)
        return out

    def forward(self, films: Tensor) -> Tensor:
        """Classify films.

        Args:
            films: uint8[N, 1, S, S].

        Returns:
            float32[N, n_labels + 1]: probabilities that sum to 1, then the OOD score, the energy
            -log sum exp(logits) of Liu et al. 2020, "Energy-based Out-of-distribution Detection";
            higher means less like the training films.
        """
        logits = self.logits(films).float()
        probabilities = torch.softmax(logits / self.temperature, dim=1)
        energy = -torch.logsumexp(logits, dim=1, keepdim=True)
        return torch.cat((probabilities, energy), dim=1)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are: the only truth about the device in use."""
        return next(self.parameters()).device
