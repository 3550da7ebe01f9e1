"""Classify images and decide their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.pvalue import PCollection

from models.handler import Device, ModelOutput, RadiographModelHandler, effective_batch_size
from models.inference import InferenceError, Thumbnail
from transforms.config.decide_row import Prediction, decide_row
from transforms.config.policy import Policy
from transforms.core.reasons import InvalidObject, Reason, Stage, Status
from transforms.imaging.webp import crop_padding, encode_webp
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import quarantined


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
    """

    model_uri: str
    policy: Policy
    device: str
    accelerator: str | None
    batch_size: int
    shadow_model: str | None = None
    models: str | None = None
    model_poll_interval: float = 30.0

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
        policy = self.policy
        decided: PCollection[IndexRow] = (
            images
            | "RunInference" >> infer
            | "Decide"
            >> beam.MapTuple(
                lambda row, result: with_thumbnail(
                    decide_image(row, result, policy), result.example, policy
                )
            ).with_output_types(IndexRow)
        )
        return decided


def with_thumbnail(row: IndexRow, image: Thumbnail, policy: Policy) -> IndexRow:
    """Return a decided row with a thumbnail of its image, if the policy stores one."""
    if row.status not in (Status.ROUTED, Status.REVIEW) or not policy.stores_thumbnail(
        in_review=row.status == Status.REVIEW, header_agrees=row.header_agrees
    ):
        return row
    return replace(row, thumbnail=encode_webp(crop_padding(image[0])))


def decide_image(row: IndexRow, result: PredictionResult, policy: Policy) -> IndexRow:
    """Return a row with the model's output and the policy's decision.

    Args:
        row: of the image.
        result: of the model.
        policy: as the operator wrote it; the bundle that classified fills in the rest.
    """
    if isinstance(result.inference, InferenceError):
        why = InvalidObject(Stage.CLASSIFY, Reason.INFERENCE_FAILED, result.inference.kind)
        return replace(quarantined(row, why), model_id=result.model_id)
    output = cast(ModelOutput, result.inference)
    if output.shadow is not None:
        row = replace(
            row,
            shadow_label=output.shadow.label,
            shadow_confidence=output.shadow.confidence,
            shadow_model_id=output.shadow.model_id,
        )
    *probabilities, ood_score = map(float, output.values)
    complete = policy.with_defaults(output.thresholds, output.ood_threshold, output.label_set)
    model_id = str(result.model_id)
    prediction = Prediction(probabilities, ood_score, model_id, output.region, output.views)
    return decide_row(row, prediction, complete)
