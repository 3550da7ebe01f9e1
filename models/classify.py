"""Classify images and decide their rows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, cast

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.pvalue import PCollection

from models.handler import Device, ModelOutput, RadiographModelHandler, effective_batch_size
from models.inference import InferenceError, Thumbnail
from transforms.config.policy import Policy, decide
from transforms.core.labels import (
    ABDOMINAL,
    ADULT_CHEST,
    LABELS,
    OTHERS,
    PEDIATRIC_CHEST,
    REGIONS,
    SPINE,
)
from transforms.core.reasons import (
    BY_MODEL,
    BY_POLICY,
    DECIDED_BY_POLICY,
    InvalidObject,
    Reason,
    Stage,
    Status,
)
from transforms.imaging.header_label import agrees
from transforms.lake.layout import REVIEW
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import quarantined


@dataclass
class ClassifyAndDecide(
    beam.PTransform[PCollection[tuple[IndexRow, Thumbnail]], PCollection[IndexRow]]
):
    """Classify thumbnails and decide their rows; pixels do not leave this transform.

    Attributes:
        model_uri: of the bundle.
        policy: as the operator wrote it; the bundle that classifies fills in the rest.
        device: auto, cpu or cuda.
        accelerator: resource hint for the workers that run the model, in Beam's syntax, or None.
        batch_size: maximum number of images per model call.
        models: folder of bundles of which the last by name takes over, or None.
        model_poll_interval: seconds between two checks of that folder.
    """

    model_uri: str
    policy: Policy
    device: str
    accelerator: str | None
    batch_size: int
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
            >> beam.MapTuple(lambda row, result: decide_row(row, result, policy)).with_output_types(
                IndexRow
            )
        )
        return decided


def decide_row(row: IndexRow, result: PredictionResult, policy: Policy) -> IndexRow:
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
    *probabilities, ood_score = map(float, output.values)
    complete = policy.with_defaults(output.thresholds, output.ood_threshold)
    decision = decide(
        probabilities,
        ood_score,
        complete,
        age_years=row.patient_age_years,
        long_side=max(row.rows or 0, row.columns or 0),
    )
    region = REGIONS.get(decision.decided_label)
    by_label = dict(zip(LABELS, probabilities, strict=True))
    return replace(
        row,
        status=Status.REVIEW if decision.destination == REVIEW else Status.ROUTED,
        stage=Stage.DECIDE,
        reason=decision.reason,
        destination=decision.destination,
        conflict=False,
        predicted_label=decision.predicted_label,
        confidence=decision.confidence,
        prob_abdominal=by_label[ABDOMINAL],
        prob_adult_chest=by_label[ADULT_CHEST],
        prob_pediatric_chest=by_label[PEDIATRIC_CHEST],
        prob_spine=by_label[SPINE],
        prob_others=by_label[OTHERS],
        ood_score=ood_score,
        model_id=result.model_id,
        header_agrees=agrees(row.header_label, decision.decided_label),
        region_code=region.code if region else None,
        region_meaning=region.meaning if region else None,
        policy_id=complete.policy_id,
        decided_by=BY_POLICY if decision.reason in DECIDED_BY_POLICY else BY_MODEL,
        decided_at=time.time_ns() // 1000,
    )
