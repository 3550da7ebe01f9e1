"""Temperature, thresholds and OOD limit, all set on images that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from models.training.calibration.thresholds import (
    HOLDOUT_ERROR_FACTOR,
    Flags,
    Indices,
    Predictions,
    Reals,
    Rule,
    choose_rule,
    upper_bound,
)
from models.training.evaluation.metrics import expected_calibration_error
from transforms.core.labels import LABELS

TARGET_ERROR: Final = 0.02
"""Share of wrong images that may be routed, on validation images."""
LEAST_DEVIATION: Final = 1e-6

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What turns logits into decisions.

    Attributes:
        temperature: divisor of the logits.
        thresholds: least confidence per label.
        ood_threshold: highest OOD score that is routed.
        evidence: what each was set on and what it cost, for the bundle.
    """

    temperature: float
    thresholds: dict[str, float]
    ood_threshold: float
    evidence: dict[str, Any]


def calibrate(
    logits: Logits,
    ood_scores: Reals,
    labels: Indices,
    *,
    target_error: float = TARGET_ERROR,
    holdout: Sequence[Predictions] = (),
) -> Calibration:
    """Fit a temperature, then choose what is routed; see `thresholds.choose_rule`.

    The evidence says of each of `holdout` what a rule that was chosen without it makes of it.

    Args:
        logits: float32[N, n_labels] of images that were not trained on.
        ood_scores: float[N] of these.
        labels: int64[N].
        target_error: share of wrong images among those routed under a label.
        holdout: what networks say of images of sources that they were trained without.
    """
    temperature = fit_temperature(logits, labels)
    mine = Predictions(
        softmax(logits / temperature, axis=1), labels, strangeness(ood_scores, ood_scores)
    )
    rule = choose_rule(mine, holdout, target_error)
    evidence = {
        "target_error": target_error,
        "target_proved": rule.is_proved,
        **_routed(mine, rule, target_error),
        "holdout": [
            _routed(
                there,
                choose_rule(mine, [other for other in holdout if other is not there], target_error),
                HOLDOUT_ERROR_FACTOR * target_error,
            )
            for there in holdout
        ],
        "ece": round(expected_calibration_error(mine.probabilities, labels), 4),
    }
    deviation = max(float(ood_scores.std()), LEAST_DEVIATION)
    ood_threshold = round(float(ood_scores.mean()) + rule.limit * deviation, 4)
    return Calibration(temperature, rule.thresholds, ood_threshold, evidence)


def strangeness(ood_scores: Reals, of_val: Reals) -> Reals:
    """Return scores in standard deviations above the mean of those of the network's val images."""
    deviation = max(float(of_val.std()), LEAST_DEVIATION)
    return np.asarray((ood_scores - of_val.mean()) / deviation)


def fit_temperature(logits: Logits, labels: Indices) -> float:
    """Return the temperature of least negative log-likelihood (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(labels)), labels].mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 4)


def _routed(of: Predictions, rule: Rule, target_error: float) -> dict[str, Any]:
    """What a rule makes of predictions, all together and by label."""
    routed = rule.routes(of)
    per_label = {}
    for index, label in enumerate(LABELS):
        mine = of.predicted == index
        error = _error(of.wrong[mine & routed])
        per_label[label] = {
            "predicted": int(mine.sum()),
            **error,
            "target_met": error["routed"] > 0 and error["wrong"] <= target_error * error["routed"],
        }
    return {
        "images": len(of.labels),
        "ood_false_review": round(float((of.strangeness > rule.limit).mean()), 4),
        "coverage": round(float(routed.mean()), 4),
        **_error(of.wrong[routed]),
        "labels": per_label,
    }


def _error(wrong: Flags) -> dict[str, Any]:
    errors, images = int(wrong.sum()), len(wrong)
    return {
        "routed": images,
        "wrong": errors,
        "error": round(errors / max(1, images), 4),
        "error_upper_95": round(upper_bound(errors, images), 4),
    }
