"""Beam's PyTorch handler, less its silent fall-backs: uint8 images in, probabilities out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor

from models import bundle
from models.fused import CPU_FORWARD_BATCH, fuse
from models.networks import BodyPartClassifier
from models.reloading import LoadedBundle, ReloadingModel
from transforms.core.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Thumbnail = npt.NDArray[np.uint8]

CPU_SHARE = 0.4
"""Of the processors, for torch's threads: the others read and decode meanwhile."""
OPERATORS_THREADS = "OMP_NUM_THREADS"
"""By which whoever runs the worker says how many threads torch has."""


class DeviceError(UsageError):
    """The device that was asked for is not there."""


@dataclass(frozen=True)
class InferenceError:
    """Stands in the place of a result for the one image that the model failed on.

    Attributes:
        kind: type of the error.
    """

    kind: str


@dataclass(frozen=True)
class ModelOutput:
    """What a bundle's network made of one image, and what the bundle asks of that.

    Attributes:
        values: float32[n_labels + 1] as `BodyPartClassifier.forward` describes.
        thresholds: of the bundle, per label.
        ood_threshold: of the bundle.
    """

    values: npt.NDArray[np.float32]
    thresholds: dict[str, float]
    ood_threshold: float


def choose_device(asked: Device) -> str:
    """Return "cpu" or "cuda".

    Raises:
        DeviceError: cuda was asked for and no usable CUDA device is there.
    """
    if asked == "cpu":
        return "cpu"
    usable = torch.cuda.is_available()
    if asked == "cuda" and not usable:
        raise DeviceError(
            "--device cuda: no usable CUDA device here; use --device auto or cpu, or repair the driver"
        )
    return "cuda" if usable else "cpu"


def effective_batch_size(device: Device, most: int) -> int:
    """Return how many images to hand to the model at once: the most that are asked for on a GPU.

    A CPU is at work on one forward's images long enough, and what decodes and places images would wait
    for the end of several.

    Args:
        device: as asked for; "cuda" where workers have one, whether or not this machine has.
        most: images.
    """
    if device == "cuda" or choose_device(device) == "cuda":
        return most
    return min(most, CPU_FORWARD_BATCH)


class RadiographModelHandler(PytorchModelHandlerTensor):  # type: ignore[misc]
    """Runs a bundle's `BodyPartClassifier` on batches of uint8[1, S, S] arrays.

    Unlike its base it never falls back to another device, and an image that makes a batch fail is
    found by halving: only it gets an `InferenceError`, the others a `ModelOutput`. There are always as
    many results as images, in their order. Given a folder of bundles, the last of them takes over between
    two batches; see `models.reloading`.
    """

    def __init__(
        self,
        bundle_uri: str,
        *,
        device: Device = "auto",
        max_batch_size: int = 32,
        models: str | None = None,
        model_poll_interval: float = 30.0,
    ) -> None:
        super().__init__(
            state_dict_path=bundle_uri,
            model_class=BodyPartClassifier,
            device="CPU",
            min_batch_size=max_batch_size,  # a size that Beam fits to the times ends at the smallest
            max_batch_size=max_batch_size,
        )
        self._bundle_uri = bundle_uri
        self._asked_device: Device = device
        side = bundle.read_info(bundle_uri).input_size
        self._image_shape = (1, side, side)
        self._max_batch_size = max_batch_size
        self._models, self._model_poll_interval = models, model_poll_interval

    def load_model(self) -> ReloadingModel:
        """Load the bundle onto the chosen device."""
        first = self._load(self._bundle_uri)
        return ReloadingModel(first, self._load, self._models, self._model_poll_interval)

    def run_inference(
        self,
        batch: Sequence[Thumbnail],
        model: ReloadingModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[PredictionResult]:
        """Classify images; `example` of each result is dropped, so that no pixels travel on."""
        served = model.current()
        network, info = served.network, served.info
        fixed = CPU_FORWARD_BATCH if network.device.type == "cpu" else self._max_batch_size
        results = self._classify(batch, network, fixed)
        if len(results) != len(batch):
            raise AssertionError(f"{len(results)} results for {len(batch)} images")
        return [
            PredictionResult(
                None,
                result
                if isinstance(result, InferenceError)
                else ModelOutput(result, info.thresholds, info.ood_threshold),
                info.model_id,
            )
            for result in results
        ]

    def _load(self, uri: str) -> LoadedBundle:
        info = bundle.read_info(uri)
        network = bundle.load_network(uri)
        device = choose_device(self._asked_device)
        if device == "cuda":
            network = network.half()
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if (1, info.input_size, info.input_size) != self._image_shape:
            raise bundle.BundleError(
                f"model bundle {uri}: its images have {info.input_size} pixels a side, this run makes "
                f"them of {self._image_shape[1]}; start anew with --model"
            )
        if device == "cpu":
            if OPERATORS_THREADS not in os.environ:
                torch.set_num_threads(max(1, round(CPU_SHARE * len(os.sched_getaffinity(0)))))
            fuse(network, info.input_size)
        self._smoke_test(network)
        return LoadedBundle(network, info)

    def get_num_bytes(self, batch: Sequence[Thumbnail]) -> int:
        """Bytes of a batch of images."""
        return sum(image.nbytes for image in batch)

    def _classify(
        self, images: Sequence[Thumbnail], model: BodyPartClassifier, fixed: int
    ) -> list[npt.NDArray[np.float32] | InferenceError]:
        """Classify images, by halves where that fails; `fixed` images go through each forward."""
        try:
            if any(image.shape != self._image_shape for image in images):
                raise ValueError(f"images must be uint8{list(self._image_shape)}")
            return list(_forward(images, model, fixed))
        except Exception as error:
            if len(images) == 1 and (fixed == 1 or model.device.type == "cpu"):
                self._smoke_test(model)  # else it is not the image's fault
                return [InferenceError(type(error).__name__)]
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
                fixed = max(1, fixed // 2)  # it may have been the memory
            half = max(1, len(images) // 2)
            parts = [part for part in (images[:half], images[half:]) if len(part)]
            return [result for part in parts for result in self._classify(part, model, fixed)]

    def _smoke_test(self, model: BodyPartClassifier) -> None:
        """Raise unless the model still classifies a blank image: no night is lost to a full device."""
        try:
            _forward([np.zeros(self._image_shape, np.uint8)], model, 1)
        except Exception as error:
            raise RuntimeError(
                f"the model fails on every image ({type(error).__name__}); free the device's memory "
                "or choose another --device, then run again"
            ) from error


def _forward(
    images: Sequence[Thumbnail], model: BodyPartClassifier, fixed: int
) -> npt.NDArray[np.float32]:
    stacked = torch.from_numpy(np.stack(images))
    missing = -len(images) % fixed
    filled = torch.cat((stacked, stacked[:1].expand(missing, -1, -1, -1)))
    device = model.device
    if device.type == "cuda":
        filled = filled.pin_memory()  # so that a part is copied while another one is computed
    with torch.inference_mode():
        parts = [model(part.to(device, non_blocking=True)) for part in torch.split(filled, fixed)]
        outputs = torch.cat(parts).float().cpu()[: len(images)].numpy()
    if not np.isfinite(outputs).all():
        raise ArithmeticError("the model gave values that are not finite")
    return outputs
