"""Learning from bundles that are larger, or several: knowledge distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from models import bundle
from models.ensemble import resize
from transforms.core.labels import LABELS

TEMPERATURE: Final = 2.0
"""Of both sides' logits, so that what a teacher holds for next likely counts (Hinton et al. 2015)."""


class Teachers:
    """What bundles say, in the mean, of the very images that a student sees.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; the same augmented image for both
    sides as in Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent".
    """

    def __init__(self, uris: Sequence[str], device: str) -> None:
        """Load the bundles.

        Raises:
            BundleError: one cannot be read, or has other labels.
        """
        self.networks = []
        for uri in uris:
            info = bundle.read_info(uri)
            if info.labels != LABELS:
                raise bundle.BundleError(f"model bundle {uri}: a teacher must know the same labels")
            network = bundle.load_network(uri)
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.networks.append((network, info.input_size))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return float32[N, n_labels], softened, for [N, 1, S, S] in 0..255, of any size."""
        opinions = [
            torch.softmax(network.logits(resize(images, side)).float() / TEMPERATURE, dim=1)
            for network, side in self.networks
        ]
        return torch.stack(opinions).mean(0)


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Return, for every image, how far a student is from what it is taught, as its gradient weighs.

    Args:
        logits: float32[N, n_labels] of the student.
        taught: float32[N, n_labels], from `Teachers.probabilities`.

    Returns:
        float32[N]: Kullback-Leibler divergences, times the square of the temperature.
    """
    learnt = torch.log_softmax(logits / TEMPERATURE, dim=1)
    divergence = nn.functional.kl_div(learnt, taught, reduction="none").sum(1)
    return divergence * TEMPERATURE**2
