"""Knowledge distillation from larger bundles, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from models.bundle import BundleError, read_info
from models.ensemble import resize
from models.fused import fuse
from models.weights import load_network

TEMPERATURE: Final = 2.0
"""Softens the logits of teachers and student, so that less likely labels count (Hinton et al. 2015)."""


class Teachers:
    """Mean prediction of bundles on the student's augmented images.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; teachers and student see the same
    augmented image as in Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and
    consistent".
    """

    def __init__(
        self, uris: Sequence[str], device: str, labels: tuple[str, ...], batch_size: int
    ) -> None:
        """Load the bundles.

        Args:
            uris: of the bundles.
            device: "cpu" or "cuda".
            labels: of the student.
            batch_size: images that `probabilities` mostly gets; others take longer on a CPU.

        Raises:
            BundleError: One cannot be read, or has other labels.
        """
        self.networks = []
        for uri in uris:
            info = read_info(uri)
            if info.labels != labels:
                raise BundleError(f"model bundle {uri}: a teacher must have the same labels")
            network = load_network(uri, "cuda" if device == "cuda" else "cpu")
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if device == "cpu":
                fuse(network.eval(), info.input_size, batch_size)
            self.networks.append((network, info.input_size))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return softened probabilities, float32[N, n_labels], for [N, 1, S, S] in 0..255."""
        predictions = [
            torch.softmax(network.logits(resize(images, size)).float() / TEMPERATURE, dim=1)
            for network, size in self.networks
        ]
        return torch.stack(predictions).mean(0)


def distillation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each image's divergence of a student from its teachers.

    Args:
        logits: float32[N, n_labels] of the student.
        targets: float32[N, n_labels] from `Teachers.probabilities`.

    Returns:
        float32[N]: Kullback-Leibler divergence times the square of the temperature, so that its gradient
        is independent of the temperature.
    """
    student = torch.log_softmax(logits / TEMPERATURE, dim=1)
    divergence = nn.functional.kl_div(student, targets, reduction="none").sum(1)
    return divergence * TEMPERATURE**2
