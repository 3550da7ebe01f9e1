"""Evaluate a bundle on labelled images, corrupted images and outliers: `dicom-router evaluate`."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from models.bundle import BundleInfo
from models.inference import Thumbnail
from models.networks import BodyPartClassifier
from models.training import provenance
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import LabeledImage, age_of, label_indices
from models.training.data.outliers import MAX_PER_KIND, SYNTHETIC_KINDS, evaluation_outliers
from models.training.data.regions import is_annotated
from models.training.evaluation.corruptions import (
    SINGLE_VIEWS,
    UNCHANGED,
    load_corrupted,
    load_single_views,
)
from models.training.evaluation.metrics import (
    Indices,
    auroc,
    compute_metrics,
    reliability,
    risk_coverage,
    upper_bound,
)
from models.training.evaluation.predict import (
    Predicted,
    load_for_prediction,
    predict_images,
    predict_regions,
)
from models.training.evaluation.region_metrics import region_metrics
from models.training.progress import Progress
from transforms.config.policy import Decision, Policy, decide
from transforms.core.choices import SPLITS
from transforms.core.labels import REVIEW
from transforms.imaging.plates import network_inputs
from transforms.imaging.preprocessing import Gray

FAILURES_PER_KIND: Final = 3
LONG_SIDE: Final = 10_000
"""Of images in pixels, so that the policy's minimum size never applies."""


@dataclass(frozen=True)
class Failure:
    """A generated outlier that was routed.

    Attributes:
        kind: of outlier.
        label: that it was routed to.
        confidence: of that label.
        image: uint8[H, W].
    """

    kind: str
    label: str
    confidence: float
    image: Gray


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
        info: of the bundle.
        figures: content of `evaluation.json`: "model_id", "data", "figures" of the labels,
            "reliability", "risk_coverage", "decisions" under the bundle's own thresholds, "with_age",
            "sources", "corruptions", "outliers" and "regions" (None without a region head).
        failures: the first of each kind.
    """

    info: BundleInfo
    figures: dict[str, Any]
    failures: list[Failure]


def evaluate_bundle(uri: str, data: Path, split: str, device: str = "cpu") -> Evaluation:
    """Evaluate a bundle on one split of a data set.

    Args:
        uri: of the bundle.
        data: manifest or folder per label; see `data.dataset.read_dataset`.
        split: train, val or test.
        device: "cpu" or "cuda", where the network runs.

    Raises:
        BundleError: The bundle cannot be read.
        DatasetError: The data set cannot be used, or has no images in the split.
    """
    info = provenance.read_bundle(uri)
    network = load_for_prediction(uri, device)
    dataset = read_dataset(data, info.labels)
    images = select_split(dataset, split)
    labels = label_indices(images, info.labels)
    corrupted = load_corrupted(images, info.input_size)
    inputs = corrupted.pop(UNCHANGED)
    predicted = predict_images(network, inputs)
    policy = Policy().with_defaults(info.limits)
    progress = Progress("evaluate", len(corrupted) + 2)
    changed = {}
    for name, of in corrupted.items():
        changed[name] = predict_images(network, of), labels
        progress.step(name)
    views, numbers = load_single_views(images, info.input_size)
    if len(views):
        changed[SINGLE_VIEWS] = predict_images(network, list(views.numpy())), labels[numbers]
    progress.step(SINGLE_VIEWS)
    outliers, failures = _evaluate_outliers(network, info.input_size, predicted, policy)
    progress.step("outliers")
    figures = {
        "model_id": info.model_id,
        "data": {
            "name": data.name, "split": split, "sha256": _digest(data),
            "images": _counts(dataset, info.labels),
            "groups": len({(image.source, image.group) for image in dataset}),
        },
        "figures": compute_metrics(images, predicted.probabilities, labels, info.labels),
        "reliability": reliability(predicted.probabilities, labels),
        "risk_coverage": risk_coverage(predicted.probabilities, labels),
        "decisions": decision_metrics(predicted, labels, policy),
        "with_age": _metrics_with_age(images, predicted, labels, policy),
        "sources": _metrics_by_source(images, predicted, labels, policy),
        "corruptions": {
            name: _corruption_metrics(of, predicted, labels_of, policy)
            for name, (of, labels_of) in changed.items()
        },
        "outliers": outliers,
        "regions": _region_metrics(info, network, images, inputs, predicted),
    }  # fmt: skip
    return Evaluation(info, figures, failures)


def _region_metrics(
    info: BundleInfo,
    network: BodyPartClassifier,
    images: Sequence[LabeledImage],
    inputs: Sequence[Thumbnail],
    predicted: Predicted,
) -> dict[str, Any] | None:
    """Return the accuracy of the region head, or None without one or without annotated regions."""
    if info.regions is None or not any(map(is_annotated, images)):
        return None
    labels = [info.labels[index] for index in predicted.best]
    return region_metrics(info.regions, images, predict_regions(network, inputs), labels)


def decision_metrics(
    predicted: Predicted,
    labels: Indices,
    policy: Policy,
    ages: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return coverage and error of a policy's decisions, and the reasons for review.

    Args:
        predicted: predictions of N images.
        labels: int64[N].
        policy: with thresholds for every label.
        ages: of the patients in years, None where unknown; None: all unknown.
    """
    names = policy.label_set.names
    routed, wrong, reasons = Counter[str](), Counter[str](), Counter[str]()
    for decision, label in zip(_decide(predicted, policy, ages), labels, strict=True):
        if decision.destination == REVIEW:
            reasons[decision.reason] += 1
            continue
        routed[decision.destination] += 1
        wrong[decision.destination] += decision.destination != names[label]
    total, errors = routed.total(), wrong.total()
    return {
        "images": len(labels),
        "accuracy": _round((predicted.best == labels).mean()),
        "routed": total,
        "coverage": _round(total / len(labels)),
        "wrong": errors,
        "error": _round(errors / max(1, total)),
        "error_upper_95": _round(upper_bound(errors, total)),
        "labels": {
            label: {
                "routed": routed[label],
                "wrong": wrong[label],
                "error_upper_95": _round(upper_bound(wrong[label], routed[label])),
            }
            for label in names
        },
        "review": dict(sorted(reasons.items())),
    }  # fmt: skip


def _evaluate_outliers(
    network: BodyPartClassifier, size: int, ordinary: Predicted, policy: Policy
) -> tuple[dict[str, Any], list[Failure]]:
    kinds: dict[str, list[Gray]] = defaultdict(list)
    for kind, outlier in evaluation_outliers(min(MAX_PER_KIND, len(ordinary))):
        kinds[kind].append(outlier)
    found: dict[str, Any] = {}
    failures: list[Failure] = []
    for kind, outliers in kinds.items():
        of_kind = predict_images(network, [network_inputs(gray, size) for gray in outliers])
        decided = decision_metrics(of_kind, np.zeros(len(of_kind), np.int64), policy)
        if kind in SYNTHETIC_KINDS:
            failures += _routed(kind, outliers, of_kind, policy)[:FAILURES_PER_KIND]
        found[kind] = {
            "images": len(outliers),
            "auroc": _round(auroc(ordinary.ood_scores, of_kind.ood_scores)),
            "auroc_of_energy": _round(auroc(ordinary.energies, of_kind.energies)),
            "auroc_of_confidence": _round(
                auroc(-ordinary.probabilities.max(1), -of_kind.probabilities.max(1))
            ),
            "reviewed": _round(1 - decided["coverage"]),
            "routed_to": {k: v["routed"] for k, v in decided["labels"].items() if v["routed"]},
        }
    return found, failures


def _routed(
    kind: str, outliers: Sequence[Gray], predicted: Predicted, policy: Policy
) -> list[Failure]:
    return [
        Failure(kind, decision.destination, decision.confidence, outlier)
        for outlier, decision in zip(outliers, _decide(predicted, policy), strict=True)
        if decision.destination != REVIEW
    ]


def _corruption_metrics(
    corrupted: Predicted, ordinary: Predicted, labels: Indices, policy: Policy
) -> dict[str, Any]:
    """Return the decisions, and how well the OOD score separates corrupted from ordinary images."""
    separation = auroc(ordinary.ood_scores, corrupted.ood_scores)
    return {**decision_metrics(corrupted, labels, policy), "auroc": _round(separation)}


def _decide(
    predicted: Predicted, policy: Policy, ages: Sequence[float | None] | None = None
) -> list[Decision]:
    """Return the decisions about images, without headers but for the patients' ages in years."""
    ages = ages or [None] * len(predicted)
    chances, scores = predicted.probabilities.tolist(), predicted.ood_scores.tolist()
    return [
        decide(own, score, policy, age_years=age, long_side=LONG_SIDE, views=views)
        for own, score, views, age in zip(chances, scores, predicted.views, ages, strict=True)
    ]


def _metrics_with_age(
    images: Sequence[LabeledImage], predicted: Predicted, labels: Indices, policy: Policy
) -> dict[str, Any] | None:
    """Return metrics when the policy knows the patients' ages; None if no age is known."""
    ages = [age_of(image) for image in images]
    known = sum(age is not None for age in ages)
    if not known:
        return None
    decided = [decision.decided_label for decision in _decide(predicted, policy, ages)]
    names = policy.label_set.names
    one_hot = np.eye(len(names))[[names.index(label) for label in decided]]
    metrics = compute_metrics(images, one_hot, labels, names)
    keys = ("accuracy", "macro_f1", "macro_f1_interval_95", "confusion")
    return {
        "images_with_age": known,
        **{key: metrics[key] for key in keys},
        "decisions": decision_metrics(predicted, labels, policy, ages),
    }


def _counts(images: Sequence[LabeledImage], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of images by split and label."""
    counts = Counter((image.split, image.label) for image in images)
    return {split: {label: counts[split, label] for label in names} for split in SPLITS}


def _metrics_by_source(
    images: Sequence[LabeledImage], predicted: Predicted, labels: Indices, policy: Policy
) -> dict[str, Any]:
    sources = np.array([image.source for image in images])
    chosen_by_source = {str(source): sources == source for source in np.unique(sources)}
    return {
        source: decision_metrics(predicted.select(chosen), labels[chosen], policy)
        for source, chosen in chosen_by_source.items()
    }


def _digest(data: Path) -> str | None:
    return hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else None


def _round(value: float) -> float:
    return round(float(value), 4)
