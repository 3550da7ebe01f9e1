"""Classify images and decide their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, cast

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.pvalue import PCollection

from models.classifier import Answer, Device, effective_batch_size
from models.decide import decide_with_thumbnail
from models.handler import RadiographModelHandler
from models.inference import Thumbnail
from transforms.config.policy import Policy
from transforms.core.worker_resources import Concurrency
from transforms.in_flight import InFlightDoFn, WindowedOutput
from transforms.lake.schema import IndexRow

MAX_IN_FLIGHT: Final = 8
"""Maximum number of images that are decided while the next ones are classified."""


@dataclass
class ClassifyAndDecide(
    beam.PTransform[PCollection[tuple[IndexRow, Thumbnail]], PCollection[IndexRow]]
):
    """Classify thumbnails and decide their rows, some of which get a small WebP image.

    Attributes:
        model_uri: of the bundle.
        policy: as the operator wrote it; the bundle that classifies fills in the rest.
        device: auto, cpu or cuda.
        accelerator: resource hint for the workers that run the model, in Beam's syntax, or None.
        batch_size: maximum number of images per model call.
        shadow_model: bundle whose answers are recorded and decide nothing, or None.
        models: folder of bundles of which the last by name takes over, or None.
        model_poll_interval: seconds between two checks of that folder.
        concurrency: how many thumbnails a worker encodes at the same time.
    """

    model_uri: str
    policy: Policy
    device: str
    accelerator: str | None
    batch_size: int
    shadow_model: str | None = None
    models: str | None = None
    model_poll_interval: float = 30.0
    concurrency: Concurrency = field(default_factory=Concurrency)

    def expand(self, images: PCollection[tuple[IndexRow, Thumbnail]]) -> PCollection[IndexRow]:
        device = cast(Device, self.device)
        handler = RadiographModelHandler(
            self.model_uri,
            device=device,
            max_batch_size=effective_batch_size(
                "cuda" if self.accelerator else device, self.batch_size
            ),
            shadow_uri=self.shadow_model,
            models=self.models,
            model_poll_interval=self.model_poll_interval,
        )
        infer: beam.PTransform[Any, Any] = RunInference(
            KeyedModelHandler(handler)
        ).with_output_types(tuple[IndexRow, PredictionResult])
        if self.accelerator:
            infer = infer.with_resource_hints(accelerator=self.accelerator)
        decided: PCollection[IndexRow] = (
            images
            | "RunInference" >> infer
            | "Decide"
            >> beam.ParDo(DecideFn(self.policy, self.concurrency)).with_output_types(IndexRow)
        )
        return decided


@dataclass(eq=False)  # Beam hashes DoFns by identity
class DecideFn(InFlightDoFn[tuple[IndexRow, PredictionResult], IndexRow]):
    """Decide rows, and encode their thumbnails, in threads while the next images are classified.

    Attributes are those of `ClassifyAndDecide`.
    """

    policy: Policy
    concurrency: Concurrency

    def setup(self) -> None:
        self._executor = ThreadPoolExecutor(self.concurrency.threads_of_worker)

    def teardown(self) -> None:
        self._executor.shutdown()

    def process(
        self,
        classified: tuple[IndexRow, PredictionResult],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedOutput]:
        self.submit(classified, timestamp, window)
        yield from self.completed(MAX_IN_FLIGHT)

    def start(self, classified: tuple[IndexRow, PredictionResult]) -> Future[IndexRow]:
        return self._executor.submit(self._decide, *classified)

    def outputs(
        self, classified: tuple[IndexRow, PredictionResult], row: IndexRow
    ) -> Iterable[IndexRow]:
        yield row

    def _decide(self, row: IndexRow, result: Any) -> IndexRow:
        answer = Answer(result.example, result.inference, str(result.model_id))
        return decide_with_thumbnail(row, answer, self.policy)
