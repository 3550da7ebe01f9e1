"""All that is measured of a bundle on labelled films, and on what is no film."""

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
from models.networks import FilmClassifier
from models.training.films import SPLITS, Film, age_of, read_films, split_of
from models.training.predict import load_to_predict, predict, predict_logits
from models.training.score import reliability, risk_coverage, score
from models.training.strangers import DRAWN, arriving
from models.training.thresholds import upper_bound
from models.training.views import AS_IT_IS, load_views
from transforms.config.policy import Decision, Policy, decide
from transforms.core.labels import LABELS
from transforms.imaging.preprocessing import Gray, preprocess
from transforms.lake.layout import REVIEW

Outputs = npt.NDArray[np.float32]
Energies = npt.NDArray[np.float32]

SHOWN_PER_KIND: Final = 3


@dataclass(frozen=True)
class Failure:
    """A generated picture of no film that was routed as one.

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
            "variants" and "strangers".
        failures: the first of each kind.
    """

    figures: dict[str, Any]
    failures: list[Failure]


def evaluate_bundle(uri: str, data: Path, split: str, device: str = "cpu") -> Evaluation:
    """Measure a bundle on one split of a data set.

    Args:
        uri: of the bundle.
        data: manifest or folder per label, see `films.read_films`.
        split: train, val or test.
        device: "cpu" or "cuda", where the network runs.

    Raises:
        BundleError: the bundle cannot be read.
        FilmsError: the data set cannot be used, or has no films in the split.
    """
    info = bundle.read_info(uri)
    network = load_to_predict(uri, device)
    known = read_films(data)
    films = split_of(known, split)
    labels = np.array([LABELS.index(film.label) for film in films])
    views = load_views(films, info.input_size)
    inputs = views.pop(AS_IT_IS)
    outputs, energies = predict(network, inputs), _energies(network, inputs)
    policy = Policy().with_defaults(info.thresholds, info.ood_threshold)
    strangers, failures = _strangers(network, info.input_size, outputs, energies, policy)
    figures = {
        "model_id": info.model_id,
        "data": {
            "name": data.name, "split": split, "sha256": _digest(data), "films": _counts(known),
            "groups": len({(film.source, film.group) for film in known}),
        },
        "figures": score(films, outputs[:, :-1], labels),
        "reliability": reliability(outputs[:, :-1], labels),
        "risk_coverage": risk_coverage(outputs[:, :-1], labels),
        "decisions": decisions(outputs, labels, policy),
        "with_age": _with_age(films, outputs, labels, policy),
        "sources": _by_source(films, outputs, labels, policy),
        "variants": {
            name: _of_variant(predict(network, changed), outputs, labels, policy)
            for name, changed in views.items()
        },
        "strangers": strangers,
    }  # fmt: skip
    return Evaluation(figures, failures)


def decisions(
    outputs: Outputs,
    labels: npt.NDArray[np.int64],
    policy: Policy,
    ages: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return what the policy makes of films: how many are routed, and how many of them wrongly.

    Args:
        outputs: float32[N, n_labels + 1] as `FilmClassifier.forward` gives.
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
        "films": len(labels),
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


def _strangers(
    network: FilmClassifier, size: int, ordinary: Outputs, energies: Energies, policy: Policy
) -> tuple[dict[str, Any], list[Failure]]:
    kinds: dict[str, list[Gray]] = defaultdict(list)
    for kind, picture in arriving():
        kinds[kind].append(picture)
    found: dict[str, Any] = {}
    failures: list[Failure] = []
    for kind, pictures in kinds.items():
        inputs = _stacked(pictures, size)
        outputs = predict(network, inputs)
        made = decisions(outputs, np.zeros(len(outputs), np.int64), policy)
        if kind in DRAWN:
            routed = [
                Failure(kind, decision.destination, max(values[:-1]), picture)
                for picture, values in zip(pictures, outputs.tolist(), strict=True)
                if (decision := _decide(values, policy)).destination != REVIEW
            ]
            failures += routed[:SHOWN_PER_KIND]
        found[kind] = {
            "pictures": len(pictures),
            "auroc": _rounded(auroc(ordinary[:, -1], outputs[:, -1])),
            "auroc_of_energy": _rounded(auroc(energies, _energies(network, inputs))),
            "auroc_of_confidence": _rounded(
                auroc(-ordinary[:, :-1].max(1), -outputs[:, :-1].max(1))
            ),
            "reviewed": _rounded(1 - made["coverage"]),
            "routed_to": {k: v["routed"] for k, v in made["labels"].items() if v["routed"]},
        }
    return found, failures


def _of_variant(
    changed: Outputs, ordinary: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any]:
    """What is decided of films shown otherwise, and how well the OOD score tells them from others."""
    told = auroc(ordinary[:, -1], changed[:, -1])
    return {**decisions(changed, labels, policy), "auroc": _rounded(told)}


def _energies(network: FilmClassifier, inputs: torch.Tensor) -> Energies:
    """What the OOD score would be without the residual."""
    return np.asarray(-logsumexp(predict_logits(network, inputs), axis=1))


def _decide(values: Sequence[float], policy: Policy, age_years: float | None = None) -> Decision:
    *probabilities, ood_score = values
    return decide(probabilities, ood_score, policy, age_years=age_years, long_side=10_000)


def _with_age(
    films: Sequence[Film], outputs: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any] | None:
    """What is decided when the patients' ages are known, as routing knows them; None if none is."""
    ages = [age_of(film) for film in films]
    known = sum(age is not None for age in ages)
    if not known:
        return None
    decided = [
        _decide(v, policy, a).decided_label for v, a in zip(outputs.tolist(), ages, strict=True)
    ]
    certain = np.eye(len(LABELS))[[LABELS.index(label) for label in decided]]
    figures = score(films, certain, labels)
    names = ("accuracy", "macro_f1", "macro_f1_interval_95", "confusion")
    return {
        "films_with_age": known,
        **{name: figures[name] for name in names},
        "decisions": decisions(outputs, labels, policy, ages),
    }


def _counts(films: Sequence[Film]) -> dict[str, dict[str, int]]:
    """How many films of each label stand in each split."""
    counts = Counter((film.split, film.label) for film in films)
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _by_source(
    films: Sequence[Film], outputs: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any]:
    sources = np.array([film.source for film in films])
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
