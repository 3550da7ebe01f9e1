"""Set temperature, thresholds and OOD limit on images that a network was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from models.networks import BodyPartClassifier
from models.training.calibration.by_age import metrics_with_ages, with_right_ages
from models.training.calibration.thresholds import (
    Flags,
    Predictions,
    Rule,
    choose_rule,
    concatenated,
)
from models.training.data.dataset import select_split
from models.training.data.images import LabeledImage, label_indices, load_served_inputs
from models.training.evaluation.metrics import (
    Indices,
    Reals,
    compute_metrics,
    effective_counts,
    expected_calibration_error,
    upper_bound,
)
from models.training.evaluation.predict import predict_image_logits
from transforms.core.labels import DEFAULT_LABELS, LabelSet

MIN_DEVIATION: Final = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What turns logits into decisions.

    Attributes:
        temperature: divisor of the logits.
        thresholds: minimum confidence per label.
        age_thresholds: minimum confidence in both age groups, per label that an age chooses; empty if
            the labels have no age groups.
        ood_threshold: highest OOD score that is routed.
        evidence: what they were set on, with coverage and error, for the bundle.
    """

    temperature: float
    thresholds: dict[str, float]
    age_thresholds: dict[str, float]
    ood_threshold: float
    evidence: dict[str, Any]


def calibrate_network(
    network: BodyPartClassifier,
    images: Sequence[LabeledImage],
    data_name: str,
    input_size: int,
    target_error: float,
    label_set: LabelSet,
    holdout: Sequence[Predictions] = (),
    holdout_error: float = 1.0,
    holdout_error_without_age: float | None = None,
) -> dict[str, Any]:
    """Calibrate a network on the val split of a data set and set its temperature.

    Returns:
        The fields thresholds, age_thresholds, ood_threshold, calibration and metrics of `BundleInfo`.
    """
    val = select_split(images, "val")
    inputs, labels = load_served_inputs(val, input_size), label_indices(val, network.labels)
    logits, ood_scores = predict_image_logits(network, inputs)
    found = calibrate(
        logits,
        ood_scores,
        labels,
        target_error=target_error,
        holdout=holdout,
        holdout_error=holdout_error,
        holdout_error_without_age=holdout_error_without_age,
        label_set=label_set,
    )
    network.temperature = found.temperature
    probabilities = softmax(logits / found.temperature, axis=1)
    return {
        "thresholds": found.thresholds,
        "age_thresholds": found.age_thresholds,
        "ood_threshold": found.ood_threshold,
        "calibration": {"data": data_name, "split": "val", **found.evidence},
        "metrics": {"val": compute_metrics(val, probabilities, labels, network.labels)},
    }


def calibrate(
    logits: npt.NDArray[np.float32],
    ood_scores: Reals,
    labels: Indices,
    *,
    target_error: float,
    holdout: Sequence[Predictions] = (),
    holdout_error: float = 1.0,
    holdout_error_without_age: float | None = None,
    label_set: LabelSet = DEFAULT_LABELS,
) -> Calibration:
    """Fit a temperature, then choose the routing rule; see `thresholds.choose_rule`.

    Images whose label an age chooses have a rule of their own, within the same limits: see `by_age`. The
    evidence has for each of `holdout` the result of a rule chosen without it.

    Args:
        logits: float32[N, n_labels] of images that the network was not trained on.
        ood_scores: float[N] of the same images.
        labels: int64[N].
        target_error: maximum error rate among the images routed to a label, 0..1.
        holdout: of images of held-out sources, by networks that were not trained on them.
        holdout_error: maximum error rate of the held-out images that are routed, 0..1.
        holdout_error_without_age: the same if no age is known, of labels with age groups; None takes
            `holdout_error`, which is the limit for images that an age decides.
        label_set: the labels, in order of the logits.
    """
    temperature = fit_temperature(logits, labels)
    val = Predictions(
        softmax(logits / temperature, axis=1),
        labels,
        standardize(ood_scores, ood_scores),
        names=label_set.names,
    )
    without_age = holdout_error
    if holdout_error_without_age is not None and label_set.age_groups is not None:
        without_age = holdout_error_without_age
    rule = choose_rule(val, holdout, target_error, holdout_error=without_age)
    evidence = {
        "target_error": target_error,
        "target_proved": rule.is_proved,
        **routing_metrics(val, rule, target_error),
        "holdout_error": without_age if holdout else None,
        "holdout_together": routing_metrics(concatenated(holdout), rule, without_age)
        if holdout
        else None,
        "holdout": [
            routing_metrics(
                one,
                choose_rule(
                    val,
                    [other for other in holdout if other is not one],
                    target_error,
                    holdout_error=without_age,
                ),
                without_age,
            )
            for one in holdout
        ],
        "ece": round(expected_calibration_error(val.probabilities, labels), 4),
    }
    age_thresholds: dict[str, float] = {}
    if label_set.age_groups is not None:
        age_thresholds, evidence["by_age"] = _by_age(
            val, holdout, rule, label_set, target_error, holdout_error
        )
    deviation = max(float(ood_scores.std()), MIN_DEVIATION)
    ood_threshold = round(float(ood_scores.mean()) + rule.max_ood_zscore * deviation, 4)
    return Calibration(temperature, rule.thresholds, age_thresholds, ood_threshold, evidence)


def _by_age(
    val: Predictions,
    holdout: Sequence[Predictions],
    rule: Rule,
    label_set: LabelSet,
    target_error: float,
    holdout_error: float,
) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Return the thresholds of images whose label an age chooses, and their evidence.

    Returns:
        The thresholds, and coverage and error of these images, by label, and of all images if every age
        is known and right, of val and of the held-out ones. Without such images in val, none.
    """
    of_val = with_right_ages(val, label_set)
    if not len(of_val.predictions.labels):
        return {}, None
    unseen = concatenated(holdout) if holdout else None
    of_unseen = with_right_ages(unseen, label_set) if unseen is not None else None
    age_rule = choose_rule(
        of_val.predictions,
        [] if of_unseen is None else [of_unseen.predictions],
        target_error,
        rule.max_ood_zscore,
        holdout_error=holdout_error,
    )
    evidence: dict[str, Any] = {
        "target_proved": age_rule.is_proved,
        **routing_metrics(of_val.predictions, age_rule, target_error),
        "all_images": metrics_with_ages(val, rule, of_val, age_rule),
        "holdout_error": holdout_error if unseen is not None else None,
        "holdout_together": None,
    }
    if unseen is not None and of_unseen is not None:
        evidence["holdout_together"] = {
            **routing_metrics(of_unseen.predictions, age_rule, holdout_error),
            "all_images": metrics_with_ages(unseen, rule, of_unseen, age_rule),
        }
    return age_rule.thresholds, evidence


def standardize(ood_scores: Reals, reference: Reals) -> Reals:
    """Return OOD scores in standard deviations of `reference` above its mean."""
    deviation = max(float(reference.std()), MIN_DEVIATION)
    return np.asarray((ood_scores - reference.mean()) / deviation)


def fit_temperature(
    logits: npt.NDArray[np.float32], labels: Indices, weights: Reals | None = None
) -> float:
    """Return the temperature of minimum negative log-likelihood (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-np.average(scores[np.arange(len(labels)), labels], weights=weights))

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 4)


def routing_metrics(of: Predictions, rule: Rule, target_error: float) -> dict[str, Any]:
    """Return coverage and error of a rule, overall and by label.

    Numbers of images are not weighted, shares are.
    """
    routed = rule.routes(of)
    per_label = {}
    for index, label in enumerate(rule.thresholds):
        predicted = of.predicted == index
        chosen = predicted & routed
        error = _error(of, chosen)
        weighted = of.weight[chosen & of.wrong].sum() <= target_error * of.weight[chosen].sum()
        per_label[label] = {
            "predicted": int(predicted.sum()),
            **error,
            "target_met": error["routed"] > 0 and bool(weighted),
        }
    return {
        "images": len(of.labels),
        "ood_false_review": _ood_false_review(of, rule),
        "coverage": _share(of, routed),
        **_error(of, routed),
        "labels": per_label,
    }


def _ood_false_review(of: Predictions, rule: Rule) -> float:
    """Return the share that the OOD limit sends to review of the images that are confident enough."""
    confident = of.weight[rule.is_confident(of)].sum()
    routed = of.weight[rule.routes(of)].sum()
    return round(float(1 - routed / confident), 4) if confident else 0.0


def _error(of: Predictions, routed: Flags) -> dict[str, Any]:
    errors, images = effective_counts(of.wrong[routed], of.weight[routed])
    return {
        "routed": int(routed.sum()),
        "wrong": int(of.wrong[routed].sum()),
        "error": round(errors / max(1.0, images), 4),
        "error_upper_95": round(upper_bound(errors, images), 4),
    }


def _share(of: Predictions, selected: Flags) -> float:
    return round(float(of.weight[selected].sum() / of.weight.sum()), 4)
