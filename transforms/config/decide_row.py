"""Decide index rows by a policy, from the model's output and the header values in their columns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from transforms.config.policy import Decision, Policy, decide
from transforms.core.labels import REVIEW
from transforms.core.reasons import BY_MODEL, BY_POLICY, DECIDED_BY_POLICY, Stage, Status
from transforms.core.regions import PredictedRegion
from transforms.lake.header_reliability import CLAIM_COLUMNS, ClaimingRow, claims_of
from transforms.lake.probabilities import probability_columns
from transforms.lake.schema import IndexRow
from transforms.lake.view_columns import Views, columns_of_views

EVIDENCE_COLUMNS: Final = ("rows", "columns", "header_label", *CLAIM_COLUMNS)
"""Columns with header values that decide."""


class Evidence(ClaimingRow, Protocol):
    """The header values that decide: an `IndexRow`, or any object with `EVIDENCE_COLUMNS`."""

    @property
    def rows(self) -> int | None: ...

    @property
    def columns(self) -> int | None: ...


@dataclass(frozen=True)
class Prediction:
    """The output of a model for one image.

    Attributes:
        probabilities: calibrated probabilities in order of the model's labels; their sum is 1.
        ood_score: out-of-distribution score.
        model_id: id of the model.
        region: that the model predicts, or None; decides nothing, and is kept if it is consistent with
            the decision.
        views: of an image that shows two side by side; the probabilities are those of both together.
    """

    probabilities: Sequence[float]
    ood_score: float
    model_id: str
    region: PredictedRegion | None = None
    views: Views | None = None


def decide_from(
    probabilities: Sequence[float],
    ood_score: float,
    views: Views | None,
    evidence: Evidence,
    policy: Policy,
    *,
    show: bool = True,
) -> Decision:
    """Decide about one image by the columns of its row; see `policy.decide`."""
    return decide(
        probabilities,
        ood_score,
        policy,
        age_years=evidence.patient_age_years,
        long_side=max(evidence.rows or 0, evidence.columns or 0),
        views=views,
        header=claims_of(evidence, policy.label_set),
        show=show,
    )


def decide_row(row: IndexRow, prediction: Prediction, policy: Policy) -> IndexRow:
    """Return a row with a model's output and the decision of a policy.

    Args:
        row: row of the image, with the columns of its header.
        prediction: output of the model.
        policy: policy with a threshold for every label.
    """
    probabilities = prediction.probabilities
    decision = decide_from(probabilities, prediction.ood_score, prediction.views, row, policy)
    labels = policy.label_set
    region = labels.region_of(decision.decided_label)
    is_consistent = labels.agree(decision.predicted_label, decision.decided_label)
    finer = prediction.region if is_consistent else None
    return replace(
        row,
        **probability_columns(labels.names, probabilities),
        **columns_of_views(prediction.views),
        status=Status.REVIEW if decision.destination == REVIEW else Status.ROUTED,
        stage=Stage.DECIDE,
        reason=decision.reason,
        destination=decision.destination,
        conflict=False,
        predicted_label=decision.predicted_label,
        confidence=decision.confidence,
        ood_score=prediction.ood_score,
        model_id=prediction.model_id,
        combined_label=decision.combined_label,
        combined_confidence=decision.combined_confidence,
        header_agrees=labels.agree(row.header_label, decision.decided_label),
        region_code=region.code if region else None,
        region_meaning=region.meaning if region else None,
        predicted_region=finer.name if finer else None,
        region_confidence=finer.confidence if finer else None,
        predicted_region_code=finer.code if finer else None,
        policy_id=policy.policy_id,
        decided_by=BY_POLICY if decision.reason in DECIDED_BY_POLICY else BY_MODEL,
        decided_at=time.time_ns() // 1000,
    )
