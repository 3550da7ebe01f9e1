"""Temperature, thresholds and OOD limit, all set on held-out validation films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import beta

from models.training.score import expected_calibration_error
from transforms.labels import LABELS

TARGET_ERROR: Final = 0.02
"""Share of wrong films that may be routed, on validation films."""
MIN_THRESHOLD: Final = 0.5
MAX_THRESHOLD: Final = 0.99
GRID: Final = tuple(
    round(float(t), 2) for t in np.arange(MIN_THRESHOLD, MAX_THRESHOLD + 0.001, 0.01)
)
"""Thresholds to choose from, rising."""
ELSEWHERE_FACTOR: Final = 2.5
"""How many times as often films of hospitals that were not learnt may be wrong."""
OOD_FALSE_REVIEW: Final = 0.005
"""Share of validation films that the OOD limit may send to review."""
OOD_FALSE_REVIEW_ELSEWHERE: Final = 0.1
"""The same of films of hospitals that were not learnt; most of those that it sends are wrong anyway."""
BOUND_CONFIDENCE: Final = 0.95
"""Of the upper bounds of errors."""

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """What a network says of films, and what they are.

    Attributes:
        probabilities: float[N, n_labels].
        labels: int64[N].
        strangeness: float[N], OOD scores in standard deviations above the mean of the network's own
            val films.
    """

    probabilities: npt.NDArray[np.floating]
    labels: Indices
    strangeness: npt.NDArray[np.floating]

    @property
    def predicted(self) -> Indices:
        """The likeliest label of each film, int64[N]."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def confidence(self) -> npt.NDArray[np.floating]:
        """Its probability, float[N]."""
        return np.asarray(self.probabilities.max(1))

    def told(self, label: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
        """Confidence of the films that are called a label, and whether they are something else."""
        mine = self.predicted == label
        return self.confidence[mine], self.labels[mine] != label


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
    ood_scores: npt.NDArray[np.floating],
    labels: Indices,
    *,
    target_error: float = TARGET_ERROR,
    elsewhere: Sequence[Predictions] = (),
) -> Calibration:
    """Fit a temperature, then thresholds, each as low as three demands allow.

    One threshold for all labels has to prove the target: it sinks as long as the upper bound of the
    error of all films that it routes is within the target (fixed sequence testing, Angelopoulos et
    al. 2021, "Learn then Test"). A label's own may be higher, so that no label's films are wrong more
    often than that, and that films of hospitals that were not learnt are not wrong more than
    `ELSEWHERE_FACTOR` times as often. The OOD limit reviews no more than `OOD_FALSE_REVIEW` of the
    films, or `OOD_FALSE_REVIEW_ELSEWHERE` of strange hospitals', whichever is higher.

    Args:
        logits: float32[N, n_labels] of films that were not trained on.
        ood_scores: float[N] of these.
        labels: int64[N].
        target_error: share of wrong films among those routed under a label.
        elsewhere: what networks say of films of sources that they were trained without.
    """
    temperature = fit_temperature(logits, labels)
    mean, deviation = float(ood_scores.mean()), float(ood_scores.std())
    strangeness = (ood_scores - mean) / max(deviation, 1e-6)
    mine = Predictions(softmax(logits / temperature, axis=1), labels, strangeness)
    common = _proved_threshold(mine, target_error)
    everywhere = [(mine, target_error)]
    everywhere += [(there, ELSEWHERE_FACTOR * target_error) for there in elsewhere]
    thresholds = {
        label: max(
            common or MIN_THRESHOLD,
            *(_threshold(*of.told(index), error) for of, error in everywhere),
        )
        for index, label in enumerate(LABELS)
    }
    limit = max(
        np.quantile(of.strangeness, 1 - share)
        for of, share in (
            (mine, OOD_FALSE_REVIEW), *((of, OOD_FALSE_REVIEW_ELSEWHERE) for of in elsewhere)
        )
    )  # fmt: skip
    evidence = {
        "target_error": target_error,
        "target_proved": common is not None,
        **_routed(mine, thresholds, target_error, limit),
        "elsewhere": [
            _routed(there, thresholds, ELSEWHERE_FACTOR * target_error, limit)
            for there in elsewhere
        ],
        "ece": round(expected_calibration_error(mine.probabilities, labels), 4),
    }
    ood_threshold = round(mean + float(limit) * deviation, 4)
    return Calibration(temperature, thresholds, ood_threshold, evidence)


def _routed(
    of: Predictions, thresholds: dict[str, float], target_error: float, limit: float
) -> dict[str, Any]:
    """What thresholds and OOD limit make of predictions; by label, what thresholds alone do."""
    per_label = {}
    for index, label in enumerate(LABELS):
        confidence, wrong = of.told(index)
        kept = confidence >= thresholds[label]
        per_label[label] = {
            "predicted": len(wrong),
            **_error(wrong[kept]),
            "target_met": bool(kept.any() and wrong[kept].sum() <= target_error * kept.sum()),
        }
    is_strange = of.strangeness > limit
    accepted = of.confidence >= np.array([thresholds[LABELS[i]] for i in of.predicted])
    accepted &= ~is_strange
    return {
        "films": len(of.labels),
        "ood_false_review": round(float(is_strange.mean()), 4),
        "coverage": round(float(accepted.mean()), 4),
        **_error((of.predicted != of.labels)[accepted]),
        "labels": per_label,
    }


def _error(wrong: npt.NDArray[np.bool_]) -> dict[str, Any]:
    errors, films = int(wrong.sum()), len(wrong)
    return {
        "routed": films,
        "wrong": errors,
        "error": round(errors / max(1, films), 4),
        "error_upper_95": round(upper_bound(errors, films), 4),
    }


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
    """The lowest threshold of the grid whose accepted films keep the target error.

    The highest where none does, or where no film tells.
    """
    for threshold in GRID:
        kept = confidence >= threshold
        if kept.any() and wrong[kept].sum() <= target_error * kept.sum():
            return threshold
    return MAX_THRESHOLD


def _proved_threshold(of: Predictions, target_error: float) -> float | None:
    """The last of the falling thresholds from the highest on that proves the target, if one does."""
    wrong, proved = of.predicted != of.labels, None
    for threshold in reversed(GRID):
        kept = of.confidence >= threshold
        if upper_bound(int(wrong[kept].sum()), int(kept.sum())) > target_error:
            break
        proved = threshold
    return proved
