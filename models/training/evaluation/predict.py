"""Predictions of a network in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.bundle import read_info
from models.fused import CPU_FORWARD_BATCH, fuse
from models.networks import BodyPartClassifier
from models.weights import load_network

GPU_FORWARD_BATCH: Final = 64


def load_for_prediction(uri: str, device: str) -> BodyPartClassifier:
    """Return the network of a bundle: fused on "cpu", plain on "cuda".

    Raises:
        BundleError: It cannot be read.
    """
    network = load_network(uri, "cuda" if device == "cuda" else "cpu")
    if device == "cpu":
        fuse(network, read_info(uri).input_size)
        return network
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def predict_logits(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels] for uint8[N, 1, S, S]."""
    return _in_batches(network.logits, network.device, inputs)


def predict(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels + 1] for uint8[N, 1, S, S], as `BodyPartClassifier.forward` does."""
    return _in_batches(network, network.device, inputs)


def predict_regions(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return the probabilities of the regions, float32[N, n_regions], for uint8[N, 1, S, S]."""
    predicted = _in_batches(network.forward_with_regions, network.device, inputs)
    return predicted[:, len(network.labels) + 1 :]


def predict_features(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return the features, float32[N, F], for uint8[N, 1, S, S]."""
    return _in_batches(network.features, network.device, inputs)


def predict_with_energy(
    network: BodyPartClassifier, inputs: Tensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what `predict` does, and the energies, float32[N], in one pass."""
    predicted = _in_batches(network.forward_with_energy, network.device, inputs)
    return predicted[:, :-1], predicted[:, -1]


def _in_batches(
    forward: Callable[[Tensor], Tensor], device: torch.device, inputs: Tensor
) -> npt.NDArray[np.float32]:
    """Concatenate the outputs; larger batches on a CPU would allocate new memory in each layer."""
    size = CPU_FORWARD_BATCH if device.type == "cpu" else GPU_FORWARD_BATCH
    with torch.inference_mode():
        parts = [forward(part.to(device)).float().cpu() for part in torch.split(inputs, size)]
    return torch.cat(parts).numpy()
