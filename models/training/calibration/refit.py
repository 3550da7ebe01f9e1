"""Refit temperature and thresholds on the answers of reviewers, which are no random sample.

Reviewers mostly see images in review, images that their header contradicts, and images of low confidence.
Counted as they are, their answers would say that the model errs much more often than it does, and nothing
about confident images. So the images of a lake are divided into strata by what selects them for review
(predicted label, whether in review, whether the header disagrees, band of confidence), and an answer
represents as many images as its stratum has for each answer (post-stratification, Holt and Smith 1979).
Within a stratum, images are taken to be answered irrespective of whether the prediction is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from models.training.calibration.calibrate import fit_temperature, routing_metrics
from models.training.calibration.thresholds import (
    GRID,
    MAX_THRESHOLD,
    Flags,
    Predictions,
    Rule,
    choose_rule,
    error_bound,
)
from models.training.evaluation.metrics import Indices, Reals

BANDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Edges between the bands of confidence."""
MIN_REPRESENTED: Final = 0.9
"""Share of the images that a threshold concerns that must be in strata with answers."""
NOT_A_LABEL: Final = -1
"""True label of an image that is not a radiograph; every prediction is wrong."""
_TINY: Final = float(np.finfo(np.float32).tiny)


class Images(NamedTuple):
    """Images of a lake with the predictions by which they were decided.

    Attributes:
        probabilities: float[N, n_labels].
        in_distribution: bool[N], whether the OOD score is within the limit.
        in_review: bool[N], whether the image was in review when nobody had answered.
        header_disagrees: bool[N], whether the header names another region than the prediction.
    """

    probabilities: Reals
    in_distribution: Flags
    in_review: Flags
    header_disagrees: Flags

    @property
    def strata(self) -> Indices:
        """Stratum of each image, int64[N]."""
        bands = np.digitize(self.probabilities.max(1), BANDS)
        flags = 2 * self.in_review.astype(np.int64) + self.header_disagrees
        return np.asarray(
            (self.probabilities.argmax(1) * 4 + flags) * (len(BANDS) + 1) + bands, dtype=np.int64
        )


class Answers(NamedTuple):
    """Answers about images of a lake, and the predictions of the bundle that is calibrated.

    Attributes:
        positions: int64[M], position of each image in the `Images`.
        labels: int64[M], or `NOT_A_LABEL`.
        probabilities: float[M, n_labels], with the bundle's present temperature.
        ood_scores: float[M].
    """

    positions: Indices
    labels: Indices
    probabilities: Reals
    ood_scores: Reals


class Present(NamedTuple):
    """What a bundle decides by before the refit.

    Attributes:
        temperature: divisor of the logits.
        thresholds: minimum confidence per label, in order of the labels.
        ood_threshold: highest OOD score that is routed; it is kept, because the answers about images in
            review say too little about ordinary ones.
    """

    temperature: float
    thresholds: Mapping[str, float]
    ood_threshold: float


@dataclass(frozen=True)
class LabelAnswers:
    """What the answers say about one label.

    Attributes:
        images: number of images of the lake that are predicted as the label.
        answers: number of them that have an answer.
        routed_answers: number of these with at least the present threshold.
        represented: share of the images with at least the present threshold that are in strata with
            answers, 0..1; 1 if there are none.
        is_enough: whether that suffices to change the threshold.
    """

    images: int
    answers: int
    routed_answers: int
    represented: float
    is_enough: bool


@dataclass(frozen=True)
class Refit:
    """Result of a refit.

    Attributes:
        temperature: new or present.
        thresholds: new, or present where there are too few answers.
        labels: what the answers say about each label.
        before: coverage and error with the present thresholds, by the answers; see `routing_metrics`.
        evidence: of the bundle, with coverage and error with the new thresholds.
    """

    temperature: float
    thresholds: dict[str, float]
    labels: dict[str, LabelAnswers]
    before: dict[str, Any]
    evidence: dict[str, Any]

    @property
    def changeable(self) -> list[str]:
        """Labels with enough answers."""
        return [label for label, of in self.labels.items() if of.is_enough]


def refit(
    images: Images, answers: Answers, present: Present, *, target_error: float, min_answers: int
) -> Refit:
    """Refit temperature and thresholds on answers.

    - The threshold of a label changes if at least `min_answers` answers are about images that the
      bundle routes to it, and `MIN_REPRESENTED` of these images are in strata with answers.
    - It is not lowered into strata without answers.
    - The temperature changes if that holds for every label that the lake has images of: otherwise a
      threshold that is kept would mean something else.
    - Thresholds are lowered, and the temperature changes, only if the upper bound of the error is then
      within the target. Without that proof, thresholds are raised at most.

    Args:
        images: all images of the lake that a model has classified.
        answers: at least one.
        present: of the bundle.
        target_error: maximum error rate among the images routed to a label, 0..1.
        min_answers: see above.
    """
    weights, represented = _weights(images, answers)
    found = {
        label: _label_answers(index, present, images, represented, answers, min_answers)
        for index, label in enumerate(present.thresholds)
    }
    temperature = present.temperature
    if all(of.is_enough for of in found.values() if of.images):
        temperature = _temperature(answers, present, weights)

    def choose(temperature: float, *, may_lower: bool) -> tuple[Predictions, Rule]:
        factor = present.temperature / temperature
        predictions = Predictions(
            _rescaled(answers.probabilities, factor),
            answers.labels,
            answers.ood_scores,
            weights,
            names=tuple(present.thresholds),
        )
        rule = choose_rule(predictions, [], target_error, present.ood_threshold)
        confidence = _rescaled(images.probabilities, factor).max(1)
        thresholds = dict(present.thresholds)
        for index, label in enumerate(present.thresholds):
            if found[label].is_enough:
                lowest = _lowest(index, present, images, represented, confidence)
                least = lowest if may_lower else present.thresholds[label]
                thresholds[label] = max(rule.thresholds[label], least)
        chosen = replace(rule, thresholds=thresholds)
        proved = error_bound(predictions, chosen.routes(predictions)) <= target_error
        return predictions, replace(chosen, is_proved=proved)

    predictions, chosen = choose(temperature, may_lower=True)
    if not chosen.is_proved:
        temperature = present.temperature
        predictions, chosen = choose(temperature, may_lower=False)
    before = Predictions(answers.probabilities, answers.labels, answers.ood_scores, weights)
    current = Rule(dict(present.thresholds), present.ood_threshold, is_proved=False)
    evidence = {
        "target_error": target_error,
        "target_proved": chosen.is_proved,
        **routing_metrics(predictions, chosen, target_error),
        "holdout": [],
        "represented": round(float(represented.mean()), 4),
        "kept": [label for label, of in found.items() if not of.is_enough],
    }
    metrics = routing_metrics(before, current, target_error)
    return Refit(temperature, chosen.thresholds, found, metrics, evidence)


def _weights(images: Images, answers: Answers) -> tuple[Reals, Flags]:
    """Return the number of images that each answer represents, and which images are represented."""
    strata = images.strata
    of_answers = strata[answers.positions]
    size = int(strata.max()) + 1
    in_lake, answered = np.bincount(strata), np.bincount(of_answers, minlength=size)
    return np.asarray((in_lake / np.maximum(1, answered))[of_answers]), answered[strata] > 0


def _label_answers(
    label: int,
    present: Present,
    images: Images,
    represented: Flags,
    answers: Answers,
    min_answers: int,
) -> LabelAnswers:
    threshold = list(present.thresholds.values())[label]
    predicted = images.probabilities.argmax(1) == label
    confident = images.probabilities.max(1) >= threshold
    concerned = predicted & confident & images.in_distribution
    share = float(represented[concerned].mean()) if concerned.any() else 1.0
    answered = answers.probabilities.argmax(1) == label
    routed = answered & (answers.probabilities.max(1) >= threshold)
    routed &= answers.ood_scores <= present.ood_threshold
    number = int(routed.sum())
    return LabelAnswers(
        int(predicted.sum()),
        int(answered.sum()),
        number,
        share,
        number >= min_answers and share >= MIN_REPRESENTED,
    )


def _temperature(answers: Answers, present: Present, weights: Reals) -> float:
    """Return the temperature that fits the answers which name a label, in distribution."""
    used = (answers.labels != NOT_A_LABEL) & (answers.ood_scores <= present.ood_threshold)
    logits = present.temperature * _log(answers.probabilities[used])
    return fit_temperature(logits, answers.labels[used], weights[used])


def _lowest(
    label: int, present: Present, images: Images, represented: Flags, confidence: Reals
) -> float:
    """Return the lowest threshold that routes no further images of strata without answers.

    Args:
        label: index of the label.
        present: of the bundle.
        images: of the lake.
        represented: bool[N], whether their strata have answers.
        confidence: float[N], with the new temperature.
    """
    is_routed = images.probabilities.max(1) >= list(present.thresholds.values())[label]
    further = (images.probabilities.argmax(1) == label) & images.in_distribution & ~is_routed
    lowest = MAX_THRESHOLD
    for threshold in reversed(GRID):
        opened = represented[further & (confidence >= threshold)]
        if len(opened) and opened.mean() < MIN_REPRESENTED:
            break
        lowest = threshold
    return lowest


def _rescaled(probabilities: Reals, factor: float) -> Reals:
    """Return probabilities whose logits are multiplied by a factor."""
    if factor == 1:
        return probabilities
    return np.asarray(softmax(factor * _log(probabilities), axis=1))


def _log(probabilities: Reals) -> npt.NDArray[np.float32]:
    return np.asarray(np.log(np.maximum(probabilities, _TINY)), dtype=np.float32)
