"""Temperature, thresholds and OOD limit, all set on held-out validation films."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import beta

from models.training.score import expected_calibration_error
from transforms.labels import LABELS

TARGET_ERROR: Final = 0.02
"""Share of wrong films that may be routed, on validation films."""
MIN_THRESHOLD: Final = 0.5
MAX_THRESHOLD: Final = 0.99
OOD_FALSE_REVIEW: Final = 0.005
"""Share of validation films that the OOD limit sends to review."""
BOUND_CONFIDENCE: Final = 0.95
"""Of the upper bounds of errors."""

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """What turns logits into decisions.

    Attributes:
        temperature: divisor of the logits.
        thresholds: least confidence per label.
        ood_threshold: highest energy that is routed.
        evidence: what each was set on and what it cost, for the bundle.
    """

    temperature: float
    thresholds: dict[str, float]
    ood_threshold: float
    evidence: dict[str, Any]


def calibrate(
    logits: Logits, labels: Indices, *, target_error: float = TARGET_ERROR
) -> Calibration:
    """Fit a temperature, then the lowest threshold per label that keeps the target error.

    Args:
        logits: float32[N, n_labels] of films that were not trained on.
        labels: int64[N].
        target_error: share of wrong films among those routed under a label.
    """
    temperature = fit_temperature(logits, labels)
    probabilities = softmax(logits / temperature, axis=1)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    thresholds, per_label = {}, {}
    for index, label in enumerate(LABELS):
        mine = predicted == index
        wrong = labels[mine] != index
        threshold = _threshold(confidence[mine], wrong, target_error)
        kept = confidence[mine] >= threshold
        thresholds[label] = threshold
        per_label[label] = {
            "predicted": int(mine.sum()),
            "routed": int(kept.sum()),
            "wrong": int(wrong[kept].sum()),
            "error_upper_95": round(upper_bound(int(wrong[kept].sum()), int(kept.sum())), 4),
            "target_met": bool(kept.any() and wrong[kept].sum() <= target_error * kept.sum()),
        }
    energy = -logsumexp(logits, axis=1)
    accepted = confidence >= np.array([thresholds[LABELS[i]] for i in predicted])
    errors = int((predicted != labels)[accepted].sum())
    evidence = {
        "films": len(labels),
        "target_error": target_error,
        "labels": per_label,
        "coverage": round(float(accepted.mean()), 4),
        "error": round(errors / max(1, int(accepted.sum())), 4),
        "error_upper_95": round(upper_bound(errors, int(accepted.sum())), 4),
        "ood_false_review": OOD_FALSE_REVIEW,
        "ece": round(expected_calibration_error(probabilities, labels), 4),
    }
    ood_threshold = float(np.quantile(energy, 1 - OOD_FALSE_REVIEW))
    return Calibration(temperature, thresholds, round(ood_threshold, 4), evidence)


def upper_bound(errors: int, films: int) -> float:
    """Return the one-sided 95 % bound of an error rate (Clopper and Pearson 1934), 0..1.

    For films that are drawn as those were; of films from elsewhere it says nothing.
    """
    if errors >= films:
        return 1.0
    return float(beta.ppf(BOUND_CONFIDENCE, errors + 1, films - errors))


def fit_temperature(logits: Logits, labels: Indices) -> float:
    """Return the temperature of least negative log-likelihood (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(labels)), labels].mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 4)


def _threshold(
    confidence: npt.NDArray[np.floating], wrong: npt.NDArray[np.bool_], target_error: float
) -> float:
    """The lowest threshold, on a grid of 0.01, whose accepted films keep the target error.

    The highest of the grid where none does, or where no film tells.
    """
    for threshold in np.arange(MIN_THRESHOLD, MAX_THRESHOLD + 0.001, 0.01):
        kept = confidence >= threshold
        if kept.any() and wrong[kept].sum() <= target_error * kept.sum():
            return round(float(threshold), 2)
    return MAX_THRESHOLD
