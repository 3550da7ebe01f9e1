"""Classify thumbnails by a bundle: uint8 images in, probabilities and OOD scores out. Without Beam."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import BundleError, BundleInfo, read_info
from models.ensemble import resize
from models.fused import CPU_FORWARD_BATCH, fuse
from models.inference import (
    MAX_CPU_PASSES,
    InferenceError,
    Outputs,
    Thumbnail,
    classify_by_halves,
    smoke_test,
)
from models.networks import BodyPartClassifier
from models.onnx_network import has_cuda_provider
from models.plates import Classified, combine, parts_of
from models.regions import choose_region
from models.reloading import LoadedBundle, ReloadingModel
from models.weights import load_network
from transforms.config.policy import ModelLimits
from transforms.core.errors import UsageError
from transforms.core.regions import PredictedRegion
from transforms.core.worker_resources import processors
from transforms.lake.view_columns import Views

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

LOG: Final = logging.getLogger("dicom_router")
CPU_SHARE: Final = 0.4
"""Share of the processors for torch's threads; the others read and decode."""
OPENMP_THREADS: Final = "OMP_NUM_THREADS"
"""Environment variable by which the operator sets the number of torch's threads."""


class DeviceError(UsageError):
    """The requested device is not available."""


@dataclass(frozen=True)
class ShadowOutput:
    """Answer of a shadow model for one image.

    Attributes:
        label: label with the highest probability.
        confidence: its calibrated probability, 0..1.
        model_id: of the bundle.
    """

    label: str
    confidence: float
    model_id: str


@dataclass(frozen=True)
class ModelOutput:
    """Output of a bundle's network for one image, and the limits of the bundle.

    Attributes:
        values: float32[n_labels + 1] as `BodyPartClassifier.forward` returns them, of a plate those of
            its views together.
        limits: of the bundle.
        region: that the bundle's second head predicts; None if it has none or is unsure.
        shadow: answer of the shadow model; None if there is none, or if it failed on the image.
        views: of a plate, else None.
    """

    values: npt.NDArray[np.float32]
    limits: ModelLimits
    region: PredictedRegion | None = None
    shadow: ShadowOutput | None = None
    views: Views | None = None


def choose_device(requested: Device) -> Literal["cpu", "cuda"]:
    """Return the device to use; "auto" takes CUDA if it is available.

    Raises:
        DeviceError: CUDA is requested and not available.
    """
    if requested == "cpu":
        return "cpu"
    is_available = torch.cuda.is_available()
    if requested == "cuda" and not is_available:
        raise DeviceError(
            "--device cuda: no usable CUDA device; use --device auto or cpu, or repair the driver"
        )
    return "cuda" if is_available else "cpu"


def effective_batch_size(device: Device, batch_size: int) -> int:
    """Return the images per model call: on a CPU, those of the forward passes at the same time.

    A larger batch gains nothing on a CPU, and decoding and placing would wait for it.

    Args:
        device: "cuda" if the workers have it, whether or not this machine does.
        batch_size: `--batch_size`.
    """
    if device == "cuda" or choose_device(device) == "cuda":
        return batch_size
    return min(batch_size, CPU_FORWARD_BATCH * _cpu_passes())


def _cpu_passes() -> int:
    """Return how many forward passes this machine makes at the same time; see `inference.forward`."""
    if OPENMP_THREADS in os.environ or _torch_threads() > 1:
        return 1
    return min(MAX_CPU_PASSES, processors())


def _torch_threads() -> int:
    return max(1, round(CPU_SHARE * processors()))


class Answer(NamedTuple):
    """What a bundle says of one image.

    Attributes:
        image: that was classified, from which a thumbnail may be stored.
        output: of the network, or the error with which it failed.
        model_id: of the bundle.
    """

    image: Thumbnail
    output: ModelOutput | InferenceError
    model_id: str


class Classifier:
    """Classifies batches of thumbnails, uint8[1, S, S], by a bundle's network.

    Of a plate, uint8[3, S, S], the views are classified; see `models.plates`. It never falls back to
    another device. With a folder of bundles the last of them takes over between two batches; see
    `models.reloading`. It can be pickled, since it holds no network: `load` returns that.
    """

    def __init__(
        self,
        bundle_uri: str,
        *,
        device: Device = "auto",
        max_batch_size: int = 32,
        shadow_uri: str | None = None,
        models: str | None = None,
        model_poll_interval: float = 30.0,
    ) -> None:
        """Read the bundle's description.

        Args:
            bundle_uri: folder of the bundle.
            device: where the network runs.
            max_batch_size: images per call, where each view of a plate counts.
            shadow_uri: bundle that answers beside the other and decides nothing, or None.
            models: folder of bundles to reload from, or None.
            model_poll_interval: seconds between two checks of that folder.

        Raises:
            BundleError: The description is missing or invalid.
        """
        self._bundle_uri = bundle_uri
        self._device: Device = device
        self._input_size = read_info(bundle_uri).input_size
        self._max_batch_size = max_batch_size
        self._shadow_uri = shadow_uri
        self._models, self._model_poll_interval = models, model_poll_interval

    def load(self) -> ReloadingModel:
        """Load the bundle onto the device."""
        first = self.load_bundle(self._bundle_uri)
        shadow = None if self._shadow_uri is None else self._load(self._shadow_uri)
        return ReloadingModel(
            first, self.load_bundle, self._models, self._model_poll_interval, shadow=shadow
        )

    def classify(self, batch: Sequence[Thumbnail], model: ReloadingModel) -> list[Answer]:
        """Return the answer for each image."""
        bundle = model.current()
        network, info = bundle.network, bundle.info
        results = self._classify(batch, network, self._input_size)
        shadows = self._classify_by_shadow(batch, model.shadow)
        return [
            Answer(
                image,
                result if isinstance(result, InferenceError) else _output(result, info, shadow),
                info.model_id,
            )
            for image, result, shadow in zip(batch, results, shadows, strict=True)
        ]

    def _classify(
        self, batch: Sequence[Thumbnail], network: BodyPartClassifier, input_size: int
    ) -> list[Classified | InferenceError]:
        forward_size = CPU_FORWARD_BATCH if network.device.type == "cpu" else self._max_batch_size
        parts = [parts_of(image) for image in batch]
        flat = [part for of_image in parts for part in of_image]
        results = classify_by_halves(flat, network, input_size, forward_size)
        if len(results) != len(flat):
            raise AssertionError(f"{len(results)} results for {len(flat)} images")
        remaining = iter(results)
        return [_together(list(islice(remaining, len(own))), network.labels) for own in parts]

    def _classify_by_shadow(
        self, batch: Sequence[Thumbnail], shadow: LoadedBundle | None
    ) -> list[ShadowOutput | None]:
        """Return the answers of the shadow model; None where there is none or it failed."""
        if shadow is None:
            return [None] * len(batch)
        size = shadow.info.input_size
        images = [_resized(image, size) for image in batch]
        return [
            None
            if isinstance(result, InferenceError)
            else _shadow_output(result.values, shadow.info)
            for result in self._classify(images, shadow.network, size)
        ]

    def load_bundle(self, uri: str) -> LoadedBundle:
        """Load a bundle onto the device and classify a blank image.

        Raises:
            BundleError: The bundle cannot be used, or its input size is not this run's.
            DeviceError: The device is not available.
            RuntimeError: The network fails on the blank image.
        """
        info = read_info(uri)
        if info.input_size != self._input_size:
            raise BundleError(
                f"model bundle {uri}: its input size is {info.input_size} pixels, this run's is "
                f"{self._input_size}; restart with --model"
            )
        return self._load(uri)

    def _load(self, uri: str) -> LoadedBundle:
        """Load a bundle of any input size; see `load_bundle`."""
        info = read_info(uri)
        device = _device_for(info, self._device)
        if device == "cpu" and OPENMP_THREADS not in os.environ:
            torch.set_num_threads(_torch_threads())
        network = load_network(uri, device)
        if device == "cuda":
            network = network.half()
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device == "cpu":
            fuse(network, info.input_size)
        smoke_test(network, info.input_size)
        return LoadedBundle(network, info)


def _output(of: Classified, info: BundleInfo, shadow: ShadowOutput | None) -> ModelOutput:
    """Return the output of a bundle's network for one image."""
    count = len(info.labels)
    values, of_regions = of.values[: count + 1], of.values[count + 1 :].tolist()
    predicted = info.labels[int(values[:count].argmax())]
    return ModelOutput(
        values,
        info.limits,
        choose_region(info.regions, of_regions, predicted),
        shadow,
        of.views,
    )


def _together(
    results: Sequence[Outputs | InferenceError], labels: Sequence[str]
) -> Classified | InferenceError:
    """Return the output for an image, or the first error, from the results of its parts."""
    outputs = []
    for result in results:
        if isinstance(result, InferenceError):
            return result
        outputs.append(result)
    return combine(np.stack(outputs), labels)


def _device_for(info: BundleInfo, requested: Device) -> Literal["cpu", "cuda"]:
    """Return the device of a bundle's network; "auto" takes CUDA only if ONNX Runtime has it, too."""
    device = choose_device(requested)
    if info.onnx is None or device == "cpu" or requested == "cuda" or has_cuda_provider():
        return device
    LOG.warning("the model runs on the CPU: this ONNX Runtime has no CUDA; see onnxruntime-gpu")
    return "cpu"


def _resized(image: Thumbnail, size: int) -> Thumbnail:
    """Return an image uint8[n, S, S] as uint8[n, size, size]."""
    if image.shape[-1] == size:
        return image
    smaller = resize(torch.from_numpy(image)[None], size).round().clamp(0, 255)
    return np.asarray(smaller[0].to(torch.uint8).numpy())


def _shadow_output(values: Outputs, info: BundleInfo) -> ShadowOutput:
    probabilities = values[: len(info.labels)]
    best = int(probabilities.argmax())
    return ShadowOutput(info.labels[best], float(probabilities[best]), info.model_id)
