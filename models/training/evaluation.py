"""All that is measured of a bundle on labelled films, and on what is no film."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from scipy.stats import rankdata

from models import bundle
from models.fused import fuse
from models.networks import FilmClassifier
from models.training.augment import beside
from models.training.films import Film, age_of, as_uint8, load_film, read_films, split_of
from models.training.predict import predict, predict_logits
from models.training.score import reliability, risk_coverage, score
from models.training.strangers import DRAWN, arriving
from models.training.thresholds import upper_bound
from transforms.imaging.network_input import network_input
from transforms.labels import LABELS
from transforms.lake.layout import REVIEW
from transforms.policy import Decision, Policy, decide

Gray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]
Energies = npt.NDArray[np.float32]

VARIANTS: Final[dict[str, Callable[[Gray], Gray]]] = {
    "inverted": lambda gray: np.asarray(float(gray.max()) + float(gray.min()) - gray, np.float32),
    "rotated by 90°": lambda gray: np.rot90(gray),
    "rotated by 180°": lambda gray: np.rot90(gray, 2),
    "mirrored": lambda gray: gray[:, ::-1],
    "middle half": lambda gray: _middle(gray),
    "in a black frame": lambda gray: _in_frame(as_uint8(gray), 0),
    "in a white frame": lambda gray: _in_frame(as_uint8(gray), 255),
}
"""What is done to films by mistake or of need."""
PAIRED: Final = "beside another one"
"""Films of which each shares one with another of its label and source."""
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
        figures: what `evaluation.json` holds: "figures" of the labels, "reliability",
            "risk_coverage", "decisions" of the bundle's own policy, "with_age", "sources",
            "variants" and "strangers".
        failures: the first of each kind.
    """

    figures: dict[str, Any]
    failures: list[Failure]


def evaluate_bundle(uri: str, data: Path, split: str) -> Evaluation:
    """Measure a bundle on one split of a data set.

    Args:
        uri: of the bundle.
        data: manifest or folder per label, see `films.read_films`.
        split: train, val or test.
    """
    info = bundle.read_info(uri)
    network = bundle.load_network(uri)
    fuse(network, info.input_size)
    films = split_of(read_films(data), split)
    grays: list[Gray] = [load_film(film.path, info.input_size) for film in films]
    labels = np.array([LABELS.index(film.label) for film in films])
    inputs = _stacked(grays, info.input_size)
    outputs, energies = predict(network, inputs), _energies(network, inputs)
    policy = Policy().with_defaults(info.thresholds, info.ood_threshold)
    strangers, failures = _strangers(network, info.input_size, outputs, energies, policy)
    figures = {
        "model_id": info.model_id,
        "data": {"name": data.name, "split": split, "sha256": _digest(data)},
        "figures": score(films, outputs[:, :-1], labels),
        "reliability": reliability(outputs[:, :-1], labels),
        "risk_coverage": risk_coverage(outputs[:, :-1], labels),
        "decisions": decisions(outputs, labels, policy),
        "with_age": _with_age(films, outputs, labels, policy),
        "sources": _by_source(films, outputs, labels, policy),
        "variants": {
            name: decisions(predict(network, _stacked(changed, info.input_size)), labels, policy)
            for name, changed in _variants(films, grays)
        },
        "strangers": strangers,
    }
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


def _variants(films: Sequence[Film], grays: Sequence[Gray]) -> Iterator[tuple[str, Iterator[Gray]]]:
    for name, change in VARIANTS.items():
        yield name, map(change, grays)
    yield PAIRED, _pairs(films, grays)


def _pairs(films: Sequence[Film], grays: Sequence[Gray]) -> Iterator[Gray]:
    """Each film and one drawn of its label and source; the only one of these stands beside itself."""
    alike = defaultdict(list)
    for number, film in enumerate(films):
        alike[film.label, film.source].append(number)
    rng = np.random.default_rng(0)
    for number, film in enumerate(films):
        others = [one for one in alike[film.label, film.source] if one != number] or [number]
        other = grays[others[int(rng.integers(len(others)))]]
        yield beside(as_uint8(grays[number]), as_uint8(other), rng)


def _by_source(
    films: Sequence[Film], outputs: Outputs, labels: npt.NDArray[np.int64], policy: Policy
) -> dict[str, Any]:
    sources = np.array([film.source for film in films])
    return {
        str(source): decisions(outputs[sources == source], labels[sources == source], policy)
        for source in np.unique(sources)
    }


def _stacked(grays: Iterable[Gray], size: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([network_input(gray, size) for gray in grays]))


def _middle(gray: Gray) -> Gray:
    height, width = gray.shape
    return gray[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _in_frame(gray: npt.NDArray[np.uint8], level: int) -> Gray:
    """With a quarter of its long side more on every side."""
    return np.asarray(np.pad(gray, max(gray.shape) // 4, constant_values=level), np.uint8)


def _digest(data: Path) -> str | None:
    return hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else None


def _rounded(value: float) -> float:
    return round(float(value), 4)
