"""What a network says of films."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import bundle
from models.fused import CPU_FORWARD_FILMS, fuse
from models.networks import FilmClassifier
from models.training.films import Film, load_inputs
from transforms.core.labels import LABELS

GPU_FORWARD_FILMS: Final = 64


def inputs_of(films: Sequence[Film], size: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return uint8[N, 1, size, size] and the label indices int64[N] of films, as serving sees them."""
    labels = np.array([LABELS.index(film.label) for film in films])
    return torch.from_numpy(load_inputs(films, size)), labels


def load_to_predict(uri: str, device: str) -> FilmClassifier:
    """Return the network of a bundle as it serves: fused on "cpu", plain on "cuda".

    Raises:
        BundleError: it cannot be read.
    """
    network = bundle.load_network(uri)
    if device == "cpu":
        fuse(network, bundle.read_info(uri).input_size)
        return network
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def predict_logits(network: FilmClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels] for uint8[N, 1, S, S]."""
    return _in_parts(network.logits, network.device, inputs)


def predict(network: FilmClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels + 1] for uint8[N, 1, S, S], as `FilmClassifier.forward` does."""
    return _in_parts(network, network.device, inputs)


def _in_parts(
    of: Callable[[Tensor], Tensor], device: torch.device, inputs: Tensor
) -> npt.NDArray[np.float32]:
    """Join what is said of parts; on a CPU larger ones would be new memory to each layer."""
    films = CPU_FORWARD_FILMS if device.type == "cpu" else GPU_FORWARD_FILMS
    with torch.inference_mode():
        parts = [of(part.to(device)).float().cpu() for part in torch.split(inputs, films)]
    return torch.cat(parts).numpy()
