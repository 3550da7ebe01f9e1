"""Forward passes of fixed shape, and isolation of an image on which the network fails by halving."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.networks import BodyPartClassifier

Thumbnail: TypeAlias = npt.NDArray[np.uint8]
"""uint8[1, S, S]; where a plate is accepted, also uint8[3, S, S]: the whole and its views."""
Outputs: TypeAlias = npt.NDArray[np.float32]
"""float32[n_labels + 1 + n_regions] of one image; see `BodyPartClassifier.forward_with_regions`."""
MAX_CPU_PASSES: Final = 2
"""Maximum number of forward passes at the same time on a CPU, if each has one thread. Unlike the threads
of one pass, they wait neither for each other nor for a decoder that has taken a processor."""
_CPU_PASSES: Final = ThreadPoolExecutor(MAX_CPU_PASSES, "forward")


@dataclass(frozen=True)
class InferenceError:
    """Result of an image on which the network failed.

    Attributes:
        kind: type of the error.
    """

    kind: str


def classify_by_halves(
    images: Sequence[Thumbnail], network: BodyPartClassifier, input_size: int, forward_size: int
) -> list[Outputs | InferenceError]:
    """Classify images; halve a batch that fails until the failing image is alone.

    On CUDA a failure also halves `forward_size`, because the device may be out of memory.

    Args:
        images: uint8[1, S, S] each.
        network: in evaluation mode.
        input_size: S.
        forward_size: images per forward pass.

    Returns:
        A result for each image, in order.

    Raises:
        RuntimeError: The network fails on a blank image, too.
    """
    try:
        if any(image.shape != (1, input_size, input_size) for image in images):
            raise ValueError(f"images must be uint8[1, {input_size}, {input_size}]")
        return list(forward(images, network, forward_size))
    except Exception as error:
        on_cuda = network.device.type == "cuda"
        if len(images) == 1 and (forward_size == 1 or not on_cuda):
            smoke_test(network, input_size)  # the image is not to blame for a broken device
            return [InferenceError(type(error).__name__)]
        if on_cuda:
            torch.cuda.empty_cache()
            forward_size = max(1, forward_size // 2)
        half = max(1, len(images) // 2)
        halves = [part for part in (images[:half], images[half:]) if len(part)]
        return [
            result
            for part in halves
            for result in classify_by_halves(part, network, input_size, forward_size)
        ]


def smoke_test(network: BodyPartClassifier, input_size: int) -> None:
    """Classify a blank image.

    Raises:
        RuntimeError: It failed: no image can be classified.
    """
    try:
        forward([np.zeros((1, input_size, input_size), np.uint8)], network, 1)
    except Exception as error:
        raise RuntimeError(
            f"the model fails on every image ({type(error).__name__}); free the device's memory or "
            "choose another --device, then run again"
        ) from error


def forward(
    images: Sequence[Thumbnail], network: BodyPartClassifier, forward_size: int
) -> npt.NDArray[np.float32]:
    """Return float32[N, n_labels + 1 + n_regions] for N images of one shape.

    The last forward pass is padded to `forward_size` images, so that all passes have one shape.

    Raises:
        ArithmeticError: An output is not finite.
    """
    stacked = torch.from_numpy(np.stack(images))
    missing = -len(images) % forward_size
    padded = torch.cat((stacked, stacked[:1].expand(missing, -1, -1, -1)))
    device = network.device
    if device.type == "cuda":
        padded = padded.pin_memory()  # so that this thread queues all parts without waiting
    parts, run = torch.split(padded, forward_size), partial(_forward_pass, network)
    if len(parts) > 1 and device.type == "cpu" and torch.get_num_threads() == 1:
        results = list(_CPU_PASSES.map(run, parts))
    else:
        results = [run(part) for part in parts]
    with torch.inference_mode():
        outputs = torch.cat(results).float().cpu()[: len(images)].numpy()
    if not np.isfinite(outputs).all():
        raise ArithmeticError("the network returned values that are not finite")
    return outputs


def _forward_pass(network: BodyPartClassifier, images: Tensor) -> Tensor:
    torch.get_num_threads()  # sets the number of threads of a thread that has not computed yet
    with torch.inference_mode():
        return network.forward_with_regions(images.to(network.device, non_blocking=True))
