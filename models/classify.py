"""Runs the model on images and decides their rows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.pvalue import PCollection

from models.handler import (
    Device,
    InferenceError,
    ModelOutput,
    RadiographModelHandler,
    effective_batch_size,
)
from transforms.config.policy import Policy, decide
from transforms.config.route_config import RouteConfig
from transforms.config.run_options import StreamConfig
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
    beam.PTransform[PCollection[tuple[IndexRow, np.ndarray]], PCollection[IndexRow]]
):
    """(row, image) to decided rows; the image ends here."""

    config: RouteConfig

    def expand(self, images: PCollection[tuple[IndexRow, np.ndarray]]) -> PCollection[IndexRow]:
        device: Device = self.config.device  # type: ignore[assignment]
        films_on = "cuda" if self.config.accelerator else device
        handler = RadiographModelHandler(
            self.config.model_uri,
            device=device,
            max_batch_size=effective_batch_size(films_on, self.config.batch_size),
            **_live(self.config.stream),
        )
        infer = RunInference(KeyedModelHandler(handler)).with_output_types(
            tuple[IndexRow, PredictionResult]
        )
        if self.config.accelerator:
            infer = infer.with_resource_hints(accelerator=self.config.accelerator)
        policy = self.config.own_policy
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
    """Fill in what the model said of an image and what the policy makes of it.

    Args:
        row: of the image.
        result: of the model.
        policy: as the operator gave it; what it leaves open, the bundle that decided fills in.
    """
    if isinstance(result.inference, InferenceError):
        why = InvalidObject(Stage.CLASSIFY, Reason.INFERENCE_FAILED, result.inference.kind)
        return replace(quarantined(row, why), model_id=result.model_id)
    scored: ModelOutput = result.inference
    *probabilities, ood_score = map(float, scored.values)
    complete = policy.with_defaults(scored.thresholds, scored.ood_threshold)
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


def _live(stream: StreamConfig | None) -> dict[str, Any]:
    """What lets a stream's model be followed by another one."""
    return (
        {}
        if stream is None
        else {"models": stream.models, "model_poll_interval": stream.model_poll_interval}
    )
