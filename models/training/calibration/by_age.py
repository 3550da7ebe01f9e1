"""Thresholds of images whose patient's age chooses between the labels of the age groups.

An age in the header is nearly always right, so that such an image is wrong only if it shows neither
group, such as a spine that is taken for a chest. Its confidence is therefore the sum of both groups'
probabilities, and needs another threshold than that of an image without an age.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from models.training.calibration.thresholds import Flags, Predictions, Rule
from models.training.evaluation.metrics import upper_bound
from transforms.config.policy import ModelLimits, Policy, decide
from transforms.core.labels import LabelSet
from transforms.core.reasons import Reason

OTHER_LABEL: Final = -1
"""True label of an image that shows neither age group; both are wrong."""


class ByAge(NamedTuple):
    """Images that an age decides.

    Attributes:
        is_decided: bool[N], which images of all; the others are decided as without an age.
        predictions: for the M images of these whose pixels do not contradict the age; the rest is
            reviewed. Names are the age groups, the confidence is the sum of both.
    """

    is_decided: Flags
    predictions: Predictions


def with_right_ages(of: Predictions, label_set: LabelSet) -> ByAge:
    """Return how images are decided if the age of every patient is known, and right.

    An image of an age group has an age of that group. Of other images, the age is one that the pixels
    do not contradict, which is the worst case.

    Args:
        of: predictions for N images, without ages.
        label_set: with age groups.
    """
    names, groups = label_set.names, label_set.age_groups
    assert groups is not None
    any_confidence = ModelLimits(dict.fromkeys(names, 0.0), np.inf, label_set)
    policy = Policy().with_defaults(any_confidence)
    ages = {groups.adult: policy.adult_from_years, groups.child: policy.adult_from_years - 1}
    adult, child = names.index(groups.adult), names.index(groups.child)
    decisions = []
    for row, label in zip(of.probabilities, of.labels, strict=True):
        true = names[label] if label in (adult, child) else None
        likely = groups.adult if row[adult] >= row[child] else groups.child
        decisions.append(
            decide(
                row.tolist(),
                0.0,
                policy,
                age_years=ages[true or likely],
                long_side=policy.min_long_side,
            )
        )
    reasons = np.array([decision.reason for decision in decisions])
    chosen = np.flatnonzero(reasons == Reason.SETTLED_BY_AGE)
    index = {name: number for number, name in enumerate(groups)}
    probabilities = np.zeros((len(chosen), len(groups)))
    for row, position in enumerate(chosen):
        decision = decisions[position]
        probabilities[row, index[decision.decided_label]] = decision.confidence
    labels = [index.get(names[of.labels[position]], OTHER_LABEL) for position in chosen]
    return ByAge(
        np.isin(reasons, (Reason.SETTLED_BY_AGE, Reason.AGE_CONTRADICTED)),
        Predictions(
            probabilities,
            np.array(labels, np.int64),
            of.ood_zscores[chosen],
            of.weight[chosen],
            tuple(groups),
        ),
    )


def metrics_with_ages(of: Predictions, rule: Rule, by_age: ByAge, age_rule: Rule) -> dict[str, Any]:
    """Return coverage and error of two rules together, if every age is known and right.

    Args:
        of: predictions for N images.
        rule: for images that no age decides.
        by_age: the others of the N images.
        age_rule: for these.
    """
    routed = rule.routes(of) & ~by_age.is_decided
    routed_by_age = age_rule.routes(by_age.predictions)
    errors = int((routed & of.wrong).sum() + (routed_by_age & by_age.predictions.wrong).sum())
    total = int(routed.sum() + routed_by_age.sum())
    return {
        "images": len(of.labels),
        "coverage": round(total / len(of.labels), 4),
        "routed": total,
        "wrong": errors,
        "error": round(errors / max(1, total), 4),
        "error_upper_95": round(upper_bound(errors, total), 4),
    }
