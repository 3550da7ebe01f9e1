"""Figures of a model on labelled images: what `train` writes into the bundle and `evaluate` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.training.data.images import LabeledImage
from transforms.core.labels import LABELS

BOOTSTRAP_ROUNDS: Final = 2000
ECE_BINS: Final = 15
N: Final = len(LABELS)

Reals = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


def score(images: Sequence[LabeledImage], probabilities: Reals, labels: Indices) -> dict[str, Any]:
    """Return figures of images; macro averages are over the labels that have images among them.

    Args:
        images: their groups, patients where known, are the unit of the bootstrap.
        probabilities: float[N, n_labels], calibrated.
        labels: int64[N].

    Returns:
        Shares in 0..1; names that end in `_interval_95` are percentile bootstrap intervals.
    """
    predicted = probabilities.argmax(1)
    of_group = _confusion_by_group(images, labels, predicted)
    total = of_group.sum(0)
    rng = np.random.default_rng(0)
    sampler = rng.multinomial(len(of_group), [1 / len(of_group)] * len(of_group), BOOTSTRAP_ROUNDS)
    drawn = np.tensordot(sampler.astype(np.float64), of_group, axes=1)
    mine, spread = rates(total[None]), rates(drawn)
    present = total.sum(1) > 0

    def figure(name: str, column: int | None = None) -> dict[str, Any]:
        of, around = mine[name][0], spread[name]
        value = of[present].mean() if column is None else of[column]
        values = around[:, present].mean(1) if column is None else around[:, column]
        low, high = np.quantile(values, (0.025, 0.975))
        key = f"macro_{name}" if column is None else name
        return {
            key: round(float(value), 4),
            f"{key}_interval_95": [round(float(low), 4), round(float(high), 4)],
        }

    return {
        "images": len(labels),
        "groups": len(of_group),
        "accuracy": round(float((predicted == labels).mean()), 4),
        **figure("precision"),
        **figure("recall"),
        **figure("f1"),
        "ece": round(expected_calibration_error(probabilities, labels), 4),
        "aurc": round(area_under_risk_coverage(probabilities, labels), 4),
        "labels": {
            label: {
                "images": int(total[i].sum()),
                **figure("precision", i),
                **figure("recall", i),
                **figure("f1", i),
            }
            for i, label in enumerate(LABELS)
        },
        "confusion": total.astype(int).tolist(),
    }


def rates(confusions: Reals) -> dict[str, Reals]:
    """Return precision, recall and F1, each float[R, n_labels], of confusion matrices [R, true, said].

    What is not defined counts 0.
    """
    right = np.einsum("rii->ri", confusions)
    true, said = confusions.sum(2), confusions.sum(1)
    return {
        "precision": _share(right, said),
        "recall": _share(right, true),
        "f1": _share(2 * right, true + said),
    }


def expected_calibration_error(probabilities: Reals, labels: Indices) -> float:
    """Return the ECE over equal-width bins of confidence (Naeini et al. 2015), 0..1."""
    images = len(labels)
    return float(
        sum(
            abs(b["accuracy"] - b["confidence"]) * b["images"] / images
            for b in reliability(probabilities, labels)
        )
    )


def reliability(probabilities: Reals, labels: Indices) -> list[dict[str, float]]:
    """Return images, mean confidence and accuracy of each bin of confidence that has images."""
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
    """Return the error among the most confident images, for shares of images from 5 % to all.

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
    """Return float[N]: the error among the one, two, ... N most confident images."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    return np.asarray(wrong / np.arange(1, len(labels) + 1))


def _confusion_by_group(
    images: Sequence[LabeledImage], labels: Indices, predicted: Indices
) -> Reals:
    """float[groups, true, said]."""
    numbers: dict[tuple[str, str], int] = {}
    of_film = [numbers.setdefault((f.source, f.group), len(numbers)) for f in images]
    tables = np.zeros((len(numbers), N, N))
    np.add.at(tables, (np.array(of_film), labels, predicted), 1)
    return tables


def _share(part: Reals, whole: Reals) -> Reals:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))
