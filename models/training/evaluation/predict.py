"""Predictions of a network in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.bundle import read_info
from models.fused import CPU_FORWARD_BATCH, fuse
from models.inference import Thumbnail
from models.networks import BodyPartClassifier
from models.plates import combine, parts_of
from models.weights import load_network
from transforms.lake.view_columns import Views

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


def predict_features(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return the features, float32[N, F], for uint8[N, 1, S, S]."""
    return _in_batches(network.features, network.device, inputs)


def predict_pooled(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return features and, if the backbone gives its stages, their statistics, float32[N, F + S]."""
    if not network.has_stages:
        return predict_features(network, inputs)
    return _in_batches(
        lambda part: torch.cat(network.features_and_statistics(part), 1), network.device, inputs
    )


@dataclass(frozen=True)
class Predicted:
    """Predictions of images as a run makes them: of the views of plates together.

    Attributes:
        probabilities: float32[N, n_labels], calibrated.
        ood_scores: float32[N].
        energies: float32[N].
        views: of plates, else None; N of them.
    """

    probabilities: npt.NDArray[np.float32]
    ood_scores: npt.NDArray[np.float32]
    energies: npt.NDArray[np.float32]
    views: tuple[Views | None, ...]

    def __len__(self) -> int:
        return len(self.views)

    @property
    def best(self) -> npt.NDArray[np.int64]:
        """Index of the most probable label, int64[N]."""
        return np.asarray(self.probabilities.argmax(1), np.int64)

    def select(self, chosen: npt.NDArray[np.bool_]) -> Predicted:
        """Return the predictions of some images, bool[N]."""
        return Predicted(
            self.probabilities[chosen],
            self.ood_scores[chosen],
            self.energies[chosen],
            tuple(views for views, one in zip(self.views, chosen, strict=True) if one),
        )


def predict_images(network: BodyPartClassifier, images: Sequence[Thumbnail]) -> Predicted:
    """Classify images, as `imaging.plates.network_inputs` returns them."""
    inputs, starts = _parts(images)
    outputs = _in_batches(network.forward_with_energy, network.device, inputs)
    values, energies = outputs[:, :-1], outputs[:, -1]
    classified = [combine(own, network.labels) for own in np.split(values, starts[1:])]
    together = np.stack([one.values for one in classified])
    views = tuple(one.views for one in classified)
    energies = np.maximum.reduceat(energies, starts)
    return Predicted(together[:, :-1], together[:, -1], energies, views)


def predict_regions(
    network: BodyPartClassifier, images: Sequence[Thumbnail]
) -> npt.NDArray[np.float32]:
    """Return the probabilities of the regions of images, float32[N, n_regions]; see `predict_images`."""
    inputs, starts = _parts(images)
    outputs = _in_batches(network.forward_with_regions, network.device, inputs)
    classified = [combine(own, network.labels) for own in np.split(outputs, starts[1:])]
    return np.stack([one.values[len(network.labels) + 1 :] for one in classified])


def predict_image_logits(
    network: BodyPartClassifier, images: Sequence[Thumbnail]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return logits, float32[N, n_labels], and OOD scores, float32[N], of images; see `models.plates`.

    Args:
        network: the network.
        images: as `imaging.plates.network_inputs` returns them.
    """
    inputs, starts = _parts(images)
    logits, scores = predict_logits(network, inputs), predict(network, inputs)[:, -1]
    counts = np.diff(starts, append=len(inputs)).astype(np.float32)
    mean = np.asarray(np.add.reduceat(logits, starts) / counts[:, None], np.float32)
    return mean, np.asarray(np.maximum.reduceat(scores, starts))


def _parts(images: Sequence[Thumbnail]) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return what is classified, uint8[M, 1, S, S], and where the parts of each image begin, int64[N]."""
    parts = [parts_of(image) for image in images]
    counts = np.array([len(own) for own in parts])
    flat = np.stack([part for own in parts for part in own])
    return torch.from_numpy(flat), np.cumsum(counts) - counts


def _in_batches(
    forward: Callable[[Tensor], Tensor], device: torch.device, inputs: Tensor
) -> npt.NDArray[np.float32]:
    """Concatenate the outputs; larger batches on a CPU would allocate new memory in each layer."""
    size = CPU_FORWARD_BATCH if device.type == "cpu" else GPU_FORWARD_BATCH
    with torch.inference_mode():
        parts = [forward(part.to(device)).float().cpu() for part in torch.split(inputs, size)]
    return torch.cat(parts).numpy()
