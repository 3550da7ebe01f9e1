"""What a network says of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import bundle
from models.fused import CPU_FORWARD_BATCH, fuse
from models.networks import BodyPartClassifier
from models.training.data.images import LabeledImage, load_inputs
from transforms.core.labels import LABELS

GPU_FORWARD_BATCH: Final = 64


def inputs_of(images: Sequence[LabeledImage], size: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Return uint8[N, 1, size, size] and the label indices int64[N] of images, as serving sees them."""
    labels = np.array([LABELS.index(image.label) for image in images])
    return torch.from_numpy(load_inputs(images, size)), labels


def load_to_predict(uri: str, device: str) -> BodyPartClassifier:
    """Return the network of a bundle as it serves: fused on "cpu", plain on "cuda".

    Raises:
        BundleError: it cannot be read.
    """
    network = bundle.load_network(uri)
    if device == "cpu":
        fuse(network, bundle.read_info(uri).input_size)
        return network
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def predict_logits(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels] for uint8[N, 1, S, S]."""
    return _in_parts(network.logits, network.device, inputs)


def predict(network: BodyPartClassifier, inputs: Tensor) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels + 1] for uint8[N, 1, S, S], as `BodyPartClassifier.forward` does."""
    return _in_parts(network, network.device, inputs)


def _in_parts(
    of: Callable[[Tensor], Tensor], device: torch.device, inputs: Tensor
) -> npt.NDArray[np.float32]:
    """Join what is said of parts; on a CPU larger ones would be new memory to each layer."""
    images = CPU_FORWARD_BATCH if device.type == "cpu" else GPU_FORWARD_BATCH
    with torch.inference_mode():
        parts = [of(part.to(device)).float().cpu() for part in torch.split(inputs, images)]
    return torch.cat(parts).numpy()
