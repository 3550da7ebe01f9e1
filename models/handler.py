"""Beam model handler for bundles: uint8 thumbnails in, probabilities and OOD scores out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult

from models.classifier import Classifier, Device
from models.inference import Thumbnail
from models.plates import parts_of
from models.reloading import LoadedBundle, ReloadingModel
from transforms.metrics import RUN_INFERENCE


class RadiographModelHandler(ModelHandler[Thumbnail, PredictionResult, ReloadingModel]):
    """Lets `RunInference` call a `Classifier`.

    Each image gets a `ModelOutput`, or an `InferenceError` if the network fails on it or on a view of it.
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
        """Read the bundle's description; the network is loaded on the workers.

        Args and errors are those of `Classifier`.
        """
        super().__init__(
            min_batch_size=max_batch_size,  # a size adapted to latency would end at the minimum
            max_batch_size=max_batch_size,
            element_size_fn=functools.partial(_forwards, limit=max_batch_size),
        )
        self._classifier = Classifier(
            bundle_uri,
            device=device,
            max_batch_size=max_batch_size,
            shadow_uri=shadow_uri,
            models=models,
            model_poll_interval=model_poll_interval,
        )

    def load_model(self) -> ReloadingModel:
        """Load the bundle onto the device."""
        return self._classifier.load()

    def load_bundle(self, uri: str) -> LoadedBundle:
        """Load another bundle; see `Classifier.load_bundle`."""
        return self._classifier.load_bundle(uri)

    def run_inference(
        self,
        batch: Sequence[Thumbnail],
        model: ReloadingModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[PredictionResult]:
        """Classify images; results carry the image, from which a thumbnail may be stored."""
        return [PredictionResult(*answer) for answer in self._classifier.classify(batch, model)]

    def get_num_bytes(self, batch: Sequence[Thumbnail]) -> int:
        """Return the bytes of a batch."""
        return sum(image.nbytes for image in batch)

    def get_metrics_namespace(self) -> str:
        """Return the namespace of RunInference's metrics."""
        return RUN_INFERENCE


def _forwards(element: Any, limit: int) -> int:
    """Return how many images of a batch an element takes.

    Args:
        element: an image, or a key and an image.
        limit: images in a batch.
    """
    image = element[1] if isinstance(element, tuple) else element
    return min(len(parts_of(image)), limit)
