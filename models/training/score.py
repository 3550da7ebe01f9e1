"""Figures of a model on a split: what `train` writes into the bundle and `evaluate` prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from models.training.calibrate import expected_calibration_error
from models.training.films import Film
from transforms.labels import LABELS

BOOTSTRAP_ROUNDS = 1000


def score(
    films: list[Film],
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    temperature: float,
) -> dict[str, Any]:
    """Return figures of a split.

    Args:
        films: the split; their groups are the unit of the bootstrap.
        logits: float32[N, n_labels].
        labels: int64[N].
        temperature: of the bundle.
    """
    probabilities = softmax(logits / temperature, axis=1)
    predicted = probabilities.argmax(1)
    indices = list(range(len(LABELS)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=0
    )
    low, high = _interval(films, labels, predicted)
    return {
        "films": len(labels),
        "accuracy": round(float((predicted == labels).mean()), 4),
        "macro_precision": round(float(precision.mean()), 4),
        "macro_recall": round(float(recall.mean()), 4),
        "macro_f1": round(float(f1.mean()), 4),
        "macro_f1_interval_95": [round(low, 4), round(high, 4)],
        "ece": round(expected_calibration_error(probabilities, labels), 4),
        "labels": {
            label: {
                "films": int(support[i]),
                "precision": round(float(precision[i]), 4),
                "recall": round(float(recall[i]), 4),
                "f1": round(float(f1[i]), 4),
            }
            for i, label in enumerate(LABELS)
        },
        "confusion": confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def _interval(
    films: list[Film], labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """95 % bootstrap interval of macro-F1, drawing patient groups."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, film in enumerate(films):
        groups.setdefault((film.source, film.group), []).append(index)
    members = [np.array(g) for g in groups.values()]
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(BOOTSTRAP_ROUNDS):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        scores.append(_macro_f1(labels[drawn], predicted[drawn]))
    low, high = np.quantile(scores, (0.025, 0.975))
    return float(low), float(high)


def _macro_f1(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    size = len(LABELS)
    table = np.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)
    both = table.sum(0) + table.sum(1)
    present = both > 0
    return float((2 * np.diag(table)[present] / both[present]).mean())
