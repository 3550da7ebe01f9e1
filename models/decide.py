"""Decide the rows of classified images. Without Beam."""

from __future__ import annotations

from dataclasses import replace

from models.classifier import Answer
from models.inference import InferenceError, Thumbnail
from transforms.config.decide_row import Prediction, decide_row
from transforms.config.policy import Policy
from transforms.core.reasons import InvalidObject, Reason, Stage, Status
from transforms.imaging.webp import crop_padding, encode_webp
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import quarantined


def decide_with_thumbnail(row: IndexRow, answer: Answer, policy: Policy) -> IndexRow:
    """Return a decided row, with a thumbnail of its image if the policy stores one."""
    return with_thumbnail(decide_image(row, answer, policy), answer.image, policy)


def with_thumbnail(row: IndexRow, image: Thumbnail, policy: Policy) -> IndexRow:
    """Return a decided row with a thumbnail of its image, if the policy stores one."""
    if row.status not in (Status.ROUTED, Status.REVIEW) or not policy.stores_thumbnail(
        in_review=row.status == Status.REVIEW, header_agrees=row.header_agrees
    ):
        return row
    return replace(row, thumbnail=encode_webp(crop_padding(image[0])))


def decide_image(row: IndexRow, answer: Answer, policy: Policy) -> IndexRow:
    """Return a row with the model's output and the policy's decision.

    Args:
        row: of the image.
        answer: of the model.
        policy: as the operator wrote it; the bundle that classified fills in the rest.
    """
    output = answer.output
    if isinstance(output, InferenceError):
        why = InvalidObject(Stage.CLASSIFY, Reason.INFERENCE_FAILED, output.kind)
        return replace(quarantined(row, why), model_id=answer.model_id)
    if output.shadow is not None:
        row = replace(
            row,
            shadow_label=output.shadow.label,
            shadow_confidence=output.shadow.confidence,
            shadow_model_id=output.shadow.model_id,
        )
    *probabilities, ood_score = map(float, output.values)
    complete = policy.with_defaults(output.limits)
    prediction = Prediction(probabilities, ood_score, answer.model_id, output.region, output.views)
    return decide_row(row, prediction, complete)
