"""Classification metrics with bootstrap intervals, calibration error and risk-coverage curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

from models.training.data.images import LabeledImage
from transforms.core.labels import LABELS

BOOTSTRAP_ROUNDS: Final = 2000
ECE_BINS: Final = 15
BOUND_CONFIDENCE: Final = 0.95
"""Of the upper bounds of error rates."""

Reals: TypeAlias = npt.NDArray[np.floating]
Indices: TypeAlias = npt.NDArray[np.int64]


def compute_metrics(
    images: Sequence[LabeledImage],
    probabilities: Reals,
    labels: Indices,
    names: Sequence[str] = LABELS,
) -> dict[str, Any]:
    """Return metrics; macro averages are over the labels that occur.

    Args:
        images: their groups, patients where known, are the unit of the bootstrap.
        probabilities: float[N, n_labels], calibrated.
        labels: int64[N].
        names: of the labels.

    Returns:
        Shares in 0..1; keys that end in `_interval_95` are percentile bootstrap intervals.
    """
    predicted = probabilities.argmax(1)
    by_group = _confusion_by_group(images, labels, predicted, len(names))
    total = by_group.sum(0)
    rng = np.random.default_rng(0)
    groups = len(by_group)
    counts = rng.multinomial(groups, [1 / groups] * groups, BOOTSTRAP_ROUNDS)
    resampled = np.tensordot(counts.astype(np.float64), by_group, axes=1)
    observed, bootstrap = rates(total[None]), rates(resampled)
    present = total.sum(1) > 0

    def metric(name: str, column: int | None = None) -> dict[str, Any]:
        point, samples = observed[name][0], bootstrap[name]
        value = point[present].mean() if column is None else point[column]
        values = samples[:, present].mean(1) if column is None else samples[:, column]
        low, high = np.quantile(values, (0.025, 0.975))
        key = f"macro_{name}" if column is None else name
        return {
            key: round(float(value), 4),
            f"{key}_interval_95": [round(float(low), 4), round(float(high), 4)],
        }

    return {
        "images": len(labels),
        "groups": groups,
        "accuracy": round(float((predicted == labels).mean()), 4),
        **metric("precision"),
        **metric("recall"),
        **metric("f1"),
        "ece": round(expected_calibration_error(probabilities, labels), 4),
        "aurc": round(area_under_risk_coverage(probabilities, labels), 4),
        "labels": {
            label: {
                "images": int(total[i].sum()),
                **metric("precision", i),
                **metric("recall", i),
                **metric("f1", i),
            }
            for i, label in enumerate(names)
        },
        "confusion": total.astype(int).tolist(),
    }


def rates(confusions: Reals) -> dict[str, Reals]:
    """Return precision, recall and F1, each float[R, n_labels].

    Undefined rates are 0.

    Args:
        confusions: float[R, true, predicted].
    """
    right = np.einsum("rii->ri", confusions)
    true, predicted = confusions.sum(2), confusions.sum(1)
    return {
        "precision": _share(right, predicted),
        "recall": _share(right, true),
        "f1": _share(2 * right, true + predicted),
    }


def upper_bound(errors: float, images: float) -> float:
    """Return the one-sided 95 % upper bound of an error rate (Clopper and Pearson 1934), 0..1.

    It holds for images drawn independently from the same distribution, not for other sites. Numbers of
    weighted images may be fractions: see `effective_counts`.
    """
    if errors >= images:
        return 1.0
    return float(beta.ppf(BOUND_CONFIDENCE, errors + 1, images - errors))


def effective_counts(wrong: npt.NDArray[np.bool_], weights: Reals) -> tuple[float, float]:
    """Return the errors and images of which unweighted images would be as informative as weighted ones.

    The number of images is Kish's effective sample size, the error rate the weighted one (Korn and
    Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts
    Estimated from Survey Data"). With equal weights, both are the plain counts.

    Args:
        wrong: bool[N].
        weights: float[N], above 0.
    """
    if not len(weights):
        return 0.0, 0.0
    images = float(weights.sum() ** 2 / (weights**2).sum())
    return float(images * weights[wrong].sum() / weights.sum()), images


def auroc(in_distribution: Reals, outliers: Reals) -> float:
    """Return the probability that an outlier's score exceeds an ordinary one, ties half; 0..1."""
    ranks = rankdata(np.concatenate((in_distribution, outliers)))[len(in_distribution) :]
    below = ranks.sum() - len(outliers) * (len(outliers) + 1) / 2
    return float(below / (len(in_distribution) * len(outliers)))


def expected_calibration_error(probabilities: Reals, labels: Indices) -> float:
    """Return the ECE over equal-width bins of confidence (Naeini et al. 2015), 0..1."""
    return float(
        sum(
            abs(b["accuracy"] - b["confidence"]) * b["images"] / len(labels)
            for b in reliability(probabilities, labels)
        )
    )


def reliability(probabilities: Reals, labels: Indices) -> list[dict[str, float]]:
    """Return images, mean confidence and accuracy of each non-empty bin of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "images": int((which == b).sum()),
            "confidence": float(confidence[which == b].mean()),
            "accuracy": float(right[which == b].mean()),
        }
        for b in range(ECE_BINS)
        if (which == b).any()
    ]


def risk_coverage(probabilities: Reals, labels: Indices) -> list[dict[str, float]]:
    """Return the error of the most confident images, for coverages from 5 % to 100 %.

    El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification".
    """
    errors = _errors_of_most_confident(probabilities, labels)
    curve = []
    for percent in range(5, 101, 5):
        kept = max(1, round(len(labels) * percent / 100))
        error = round(float(errors[kept - 1]), 4)
        curve.append({"coverage": percent / 100, "images": kept, "error": error})
    return curve


def area_under_risk_coverage(probabilities: Reals, labels: Indices) -> float:
    """Return the AURC, the mean error over all coverages, 0..1: lower is better.

    Geifman et al. 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".
    """
    return float(_errors_of_most_confident(probabilities, labels).mean())


def _errors_of_most_confident(probabilities: Reals, labels: Indices) -> Reals:
    """Return float[N]: the error of the 1, 2, ... N most confident images."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    return np.asarray(wrong / np.arange(1, len(labels) + 1))


def _confusion_by_group(
    images: Sequence[LabeledImage], labels: Indices, predicted: Indices, n_labels: int
) -> Reals:
    """Return float[groups, true, predicted]."""
    numbers: dict[tuple[str, str], int] = {}
    groups = [numbers.setdefault((i.source, i.group), len(numbers)) for i in images]
    tables = np.zeros((len(numbers), n_labels, n_labels))
    np.add.at(tables, (np.array(groups), labels, predicted), 1)
    return tables


def _share(part: Reals, whole: Reals) -> Reals:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))
