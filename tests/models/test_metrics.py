"""Metrics agree with scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from models.training.data.images import LabeledImage
from models.training.evaluation.metrics import auroc, compute_metrics, risk_coverage
from transforms.core.labels import LABELS


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 300)  # the last label has no image
    logits = rng.normal(0, 1, (300, len(LABELS))).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    logits[:, 4] -= 9
    images = [LabeledImage(Path(), "", "val", "s", str(i // 3)) for i in range(300)]
    found = compute_metrics(images, softmax(logits, axis=1), labels)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, logits.argmax(1))
    assert found["macro_recall"] == pytest.approx(recall.mean(), abs=1e-4)
    for i, label in enumerate(LABELS[:4]):
        of = found["labels"][label]
        rates = (of["precision"], of["recall"], of["f1"])
        assert rates == pytest.approx((precision[i], recall[i], f1[i]), abs=1e-4)
    assert found["groups"] == 100
    curve = risk_coverage(softmax(logits, axis=1), labels)
    assert curve[-1]["error"] == pytest.approx((logits.argmax(1) != labels).mean(), abs=1e-4)
    most_confident = np.argsort(-softmax(logits, axis=1).max(1), kind="stable")
    errors = [
        (logits.argmax(1) != labels)[most_confident[:n]].mean() for n in range(1, len(labels) + 1)
    ]
    assert compute_metrics(images, softmax(logits, axis=1), labels)["aurc"] == pytest.approx(
        np.mean(errors), abs=1e-4
    )
    scores = rng.normal(0, 1, 200)
    is_outlier = np.arange(200) % 3 == 0
    assert auroc(scores[~is_outlier], scores[is_outlier]) == pytest.approx(
        roc_auc_score(is_outlier, scores)
    )
