"""All that is measured of a bundle on labelled images, and on what is no image."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from scipy.stats import rankdata

from models import bundle
from models.networks import BodyPartClassifier
from models.training.calibration.thresholds import upper_bound
from models.training.data.images import SPLITS, LabeledImage, age_of, read_dataset, select_split
from models.training.data.outliers import SYNTHETIC_KINDS, evaluation_outliers
from models.training.evaluation.corruptions import ORIGINAL, load_corrupted
from models.training.evaluation.metrics import reliability, risk_coverage, score
from models.training.evaluation.predict import load_to_predict, predict, predict_logits
from transforms.config.policy import Decision, Policy, decide
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import Gray, preprocess
from transforms.lake.layout import REVIEW

Outputs = npt.NDArray[np.float32]
Energies = npt.NDArray[np.float32]

SHOWN_PER_KIND: Final = 3


@dataclass(frozen=True)
class Failure:
    """A generated picture of no image that was routed as one.

    Attributes:
        kind: of picture.
        label: that it was routed under.
        confidence: of that label.
        picture: uint8[H, W].
    """

    kind: str
    label: str
    confidence: float
    picture: Gray


class Evaluation(NamedTuple):
    """What was measured, and pictures to show.

    Attributes:
        figures: what `evaluation.json` holds: "model_id", "data", "figures" of the labels, "reliability",
            "risk_coverage", "decisions" of the bundle's own policy, "with_age", "sources",
            "variants" and "outliers".
        failures: the first of each kind.
    """

    figures: dict[str, Any]
    failures: list[Failure]


def evaluate_bundle(uri: str, data: Path, split: str, device: str = "cpu") -> Evaluation:
    """Measure a bundle on one split of a data set.

    Args:
        uri: of the bundle.
        data: manifest or folder per label, see `images.read_dataset`.
        split: train, val or test.
        device: "cpu" or "cuda", where the network runs.

    Raises:
        BundleError: the bundle cannot be read.
        DatasetError: the data set cannot be used, or has no images in the split.
    """
    info = bundle.read_info(uri)
    network = load_to_predict(uri, device)
    known = read_dataset(data)
    images = select_split(known, split)
    labels = np.array([LABELS.index(image.label) for image in images])
    corrupted = load_corrupted(images, info.input_size)
    inputs = corrupted.pop(ORIGINAL)
    outputs, energies = predict(network, inputs), _energies(network, inputs)
    policy = Policy().with_defaults(info.thresholds, info.ood_threshold)
    outliers, failures = _outliers(network, info.input_size, outputs, energies, policy)
    figures = {
        "model_id": info.model_id,
        "data": {
            "name": data.name, "split": split, "sha256": _digest(data), "images": _counts(known),
            "groups": len({(image.source, image.group) for image in known}),
        },
        "figures": score(images, outputs[:, :-1], labels),
        "reliability": reliability(outputs[:, :-1], labels),
        "risk_coverage": risk_coverage(outputs[:, :-1], labels),
        "decisions": decisions(outputs, labels, policy),
        "with_age": _with_age(images, outputs, labels, policy),
        "sources": _by_source(images, outputs, labels, policy),
        "corruptions": {
            name: _corruption_figures(predict(network, changed), outputs, labels, policy)
            for name, changed in corrupted.items()
        },
        "outliers": outliers,
    }  # fmt: skip
    return Evaluation(figures, failures)


def decisions(
    outputs: Outputs,
    labels: npt.NDArray[np.int64],
    policy: Policy,
    ages: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return what the policy makes of images: how many are routed, and how many of them wrongly.

    Args:
        outputs: float32[N, n_labels + 1] as `BodyPartClassifier.forward` gives.
        labels: int64[N].
        policy: with thresholds for every label.
        ages: of the patients in years, None where it is not known; None: all are unknown.
    """
    routed, wrong, reasons = Counter[str](), Counter[str](), Counter[str]()
    ages = ages or [None] * len(labels)
    for values, label, age in zip(outputs.tolist(), labels, ages, strict=True):
        decision = _decide(values, policy, age)
        if decision.destination == REVIEW:
            reasons[decision.reason] += 1
            continue
        routed[decision.destination] += 1
        wrong[decision.destination] += decision.destination != LABELS[label]
    total, errors = routed.total(), wrong.total()
    return {
        "images": len(labels),
        "accuracy": _rounded((outputs[:, :-1].argmax(1) == labels).mean()),
        "routed": total,
        "coverage": _rounded(total / len(labels)),
        "wrong": errors,
        "error": _rounded(errors / max(1, total)),
        "error_upper_95": _rounded(upper_bound(errors, total)),
        "labels": {
            label: {
                "routed": routed[label],
                "wrong": wrong[label],
                "error_upper_95": _rounded(upper_bound(wrong[label], routed[label])),
            }
            for label in LABELS
        },
        "review": dict(sorted(reasons.items())),
    }  # fmt: skip


def auroc(ordinary: npt.NDArray[np.floating], strange: npt.NDArray[np.floating]) -> float:
    """Return how likely a strange score is above an ordinary one, ties half; 0..1."""
    ranks = rankdata(np.concatenate((ordinary, strange)))[len(ordinary) :]
    below = ranks.sum() - len(strange) * (len(strange) + 1) / 2
    return float(below / (len(ordinary) * len(strange)))


def _outliers(
    network: BodyPartClassifier, size: int, ordinary: Outputs, energies: Energies, policy: Policy
) -> tuple[dict[str, Any], list[Failure]]:
    kinds: dict[str, list[Gray]] = defaultdict(list)
    for kind, picture in evaluation_outliers():
        kinds[kind].append(picture)
    found: dict[str, Any] = {}
    failures: list[Failure] = []
    for kind, pictures in kinds.items():
        inputs = _stacked(pictures, size)
        outputs = predict(network, inputs)
        made = decisions(outputs, np.zeros(len(outputs), np.int64), policy)
        if kind in SYNTHETIC_KINDS:
            routed = [
                Failure(kind, decision.destination, max(values[:-1]), picture)
                for picture, values in zip(pictures, outputs.tolist(), strict=True)
                if (decision := _decide(values, policy)).destination != REVIEW
            ]
            failures += routed[:SHOWN_PER_KIND]
        found[kind] = {
            "images": len(pictures),
            "auroc": _rounded(auroc(ordinary[:, -1], outputs[:, -1])),
            "auroc_of_energy": _rounded(auroc(energies, _energies(network, inputs))),
            "auroc_of_confidence": _rounded(
                auroc(-ordinary[:, :-1].max(1), -outputs[:, :-1].max(1))
            ),
            "reviewed": _rounded(1 - made["coverage"]),
            "routed_to": {k: v["routed"] for k, v in made["labels"].items() if v["routed"]},
        }
    return found, failures


def _corruption_figures(
    changed: Outputs, ordinary: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any]:
    """What is decided of images shown otherwise, and how well the OOD score tells them from others."""
    told = auroc(ordinary[:, -1], changed[:, -1])
    return {**decisions(changed, labels, policy), "auroc": _rounded(told)}


def _energies(network: BodyPartClassifier, inputs: torch.Tensor) -> Energies:
    """What the OOD score would be without the residual."""
    return np.asarray(-logsumexp(predict_logits(network, inputs), axis=1))


def _decide(values: Sequence[float], policy: Policy, age_years: float | None = None) -> Decision:
    *probabilities, ood_score = values
    return decide(probabilities, ood_score, policy, age_years=age_years, long_side=10_000)


def _with_age(
    images: Sequence[LabeledImage], outputs: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any] | None:
    """What is decided when the patients' ages are known, as routing knows them; None if none is."""
    ages = [age_of(image) for image in images]
    known = sum(age is not None for age in ages)
    if not known:
        return None
    decided = [
        _decide(v, policy, a).decided_label for v, a in zip(outputs.tolist(), ages, strict=True)
    ]
    certain = np.eye(len(LABELS))[[LABELS.index(label) for label in decided]]
    figures = score(images, certain, labels)
    names = ("accuracy", "macro_f1", "macro_f1_interval_95", "confusion")
    return {
        "images_with_age": known,
        **{name: figures[name] for name in names},
        "decisions": decisions(outputs, labels, policy, ages),
    }


def _counts(images: Sequence[LabeledImage]) -> dict[str, dict[str, int]]:
    """How many images of each label stand in each split."""
    counts = Counter((image.split, image.label) for image in images)
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _by_source(
    images: Sequence[LabeledImage], outputs: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any]:
    sources = np.array([image.source for image in images])
    return {
        str(source): decisions(outputs[sources == source], labels[sources == source], policy)
        for source in np.unique(sources)
    }


def _stacked(grays: Iterable[Gray], size: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([preprocess(gray, size) for gray in grays]))


def _digest(data: Path) -> str | None:
    return hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else None


def _rounded(value: float) -> float:
    return round(float(value), 4)
