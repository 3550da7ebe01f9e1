"""Routing rule: thresholds per label and an OOD limit, chosen on predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from models.training.evaluation.metrics import Indices, Reals, effective_counts, upper_bound
from transforms.core.labels import LABELS

MIN_THRESHOLD: Final = 0.5
MAX_THRESHOLD: Final = 0.99
GRID: Final = tuple(
    round(float(t), 2) for t in np.arange(MIN_THRESHOLD, MAX_THRESHOLD + 0.001, 0.01)
)
"""Candidate thresholds, ascending."""
HOLDOUT_GRID: Final = (*GRID, *(round(0.99 + 0.001 * n, 3) for n in range(1, 10)))
"""Candidates for images of unseen sites, of which many are wrong with high confidence."""
MIN_HOLDOUT_IMAGES: Final = 20
"""Held-out images predicted as a label below which they do not affect its threshold."""
PRICES: Final = (0.0, *np.geomspace(0.1, 10_000, 400).tolist())
"""Correctly routed images that one error outweighs, ascending."""
OOD_FALSE_REVIEW: Final = 0.005
"""Share of validation images that the OOD limit may send to review."""
HOLDOUT_OOD_FALSE_REVIEW: Final = 0.02
"""Share of the images of unseen sites that it may send to review of those that are routed without it."""

Flags: TypeAlias = npt.NDArray[np.bool_]


class Predictions(NamedTuple):
    """Predictions and true labels of images.

    Attributes:
        probabilities: float[N, n_labels].
        labels: int64[N].
        ood_zscores: float[N], OOD scores in standard deviations above the mean of the network's own val
            images.
        weights: float[N], number of images that each represents, above 0; None means 1.
        names: of the labels.
    """

    probabilities: Reals
    labels: Indices
    ood_zscores: Reals
    weights: Reals | None = None
    names: Sequence[str] = LABELS

    @property
    def weight(self) -> Reals:
        """Weight of each image, float[N]."""
        return np.ones(len(self.labels)) if self.weights is None else self.weights

    @property
    def predicted(self) -> Indices:
        """Most likely label of each image, int64[N]."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def confidence(self) -> Reals:
        """Its probability, float[N]."""
        return np.asarray(self.probabilities.max(1))

    @property
    def wrong(self) -> Flags:
        """Whether it is not the true label, bool[N]."""
        return np.asarray(self.predicted != self.labels)

    def predicted_as(self, label: int) -> tuple[Reals, Flags, Reals]:
        """Return confidence, wrongness and weight of the images predicted as a label."""
        selected = self.predicted == label
        return self.confidence[selected], self.wrong[selected], self.weight[selected]


@dataclass(frozen=True)
class Rule:
    """What is routed.

    Attributes:
        thresholds: minimum confidence per label, in order of the labels.
        max_ood_zscore: maximum standardized OOD score.
        is_proved: whether the error rate of what it routes is proved to be within the target.
    """

    thresholds: dict[str, float]
    max_ood_zscore: float
    is_proved: bool

    def routes(self, of: Predictions) -> Flags:
        """Return which images are routed, bool[N]."""
        return self.is_confident(of) & (of.ood_zscores <= self.max_ood_zscore)

    def is_confident(self, of: Predictions) -> Flags:
        """Return which images reach the threshold of their label, bool[N]."""
        minimum = np.array(list(self.thresholds.values()))
        return np.asarray(of.confidence >= minimum[of.predicted])


def choose_rule(
    val: Predictions,
    holdout: Sequence[Predictions],
    target_error: float,
    max_ood_zscore: float | None = None,
    *,
    holdout_error: float = 1.0,
) -> Rule:
    """Return the rule that routes the most images, val and held-out, within these limits.

    - Of the images predicted as a label, at most the target error are wrong. Of all held-out images that
      are routed, at most `holdout_error` are: see `_holdout_thresholds`.
    - The OOD limit reviews at most `OOD_FALSE_REVIEW` of the validation images, or
      `HOLDOUT_OOD_FALSE_REVIEW` of the held-out ones that are confident enough, whichever limit is
      higher.
    - No threshold is below a common one, which is lowered as long as the upper bound of the error of
      all that it routes alone is within the target: fixed sequence testing, Angelopoulos et al. 2021,
      "Learn then Test".
    - `is_proved` says whether the bound holds for what the whole rule routes. It assumes images drawn
      independently as these were, and ignores that temperature and labels' own thresholds were chosen on
      the same images.

    Args:
        val: of validation images.
        holdout: of images of held-out sources, by networks that were not trained on them.
        target_error: 0..1.
        max_ood_zscore: the OOD limit, if it is given; else it is chosen.
        holdout_error: maximum error rate of the held-out images that are routed, 0..1.
    """
    unseen = concatenated(holdout) if holdout else None
    limit = max_ood_zscore
    if limit is None:
        limit = float(np.quantile(val.ood_zscores, 1 - OOD_FALSE_REVIEW))
    labels = range(len(val.names))
    own = [_lowest_threshold(*val.predicted_as(label), target_error) for label in labels]
    if unseen is not None and max_ood_zscore is None:
        without = _holdout_thresholds(val, unseen, np.inf, own, target_error, holdout_error)
        confident = unseen.confidence >= np.array(without)[unseen.predicted]
        if confident.any():
            highest = np.quantile(unseen.ood_zscores[confident], 1 - HOLDOUT_OOD_FALSE_REVIEW)
            limit = max(limit, float(highest))
    common = _common_threshold(val, limit, target_error)
    own = [_lowest_threshold(*val.predicted_as(label), target_error, common) for label in labels]
    if unseen is not None:
        own = _holdout_thresholds(val, unseen, limit, own, target_error, holdout_error)
    thresholds = dict(zip(val.names, own, strict=True))
    rule = Rule(thresholds, limit, is_proved=False)
    return replace(rule, is_proved=error_bound(val, rule.routes(val)) <= target_error)


class _Candidate(NamedTuple):
    """A threshold of a label, and what it routes.

    Attributes:
        threshold: minimum confidence.
        images: number of val and held-out images.
        unseen: number of the held-out ones.
        errors: number of these that are wrong.
        is_within_target: whether the error rate of the val images is at most the target.
    """

    threshold: float
    images: float
    unseen: float
    errors: float
    is_within_target: bool


def _holdout_thresholds(
    val: Predictions,
    unseen: Predictions,
    limit: float,
    least: Sequence[float],
    target_error: float,
    holdout_error: float,
) -> list[float]:
    """Return the thresholds that route the most images with at most the allowed error on held-out ones.

    Each label maximizes the images that it routes, of val and held-out sources, minus a price for each
    error on a held-out one. The price is the same for all labels, and the lowest that keeps the allowed
    error (a Lagrange multiplier; Everett 1963, "Generalized Lagrange Multiplier Method for Solving
    Problems of Optimum Allocation of Resources"). So a label whose confident predictions are often wrong
    elsewhere is reviewed, others are not. What the price leaves of the allowed error is then spent where
    it routes the most images.

    Args:
        val: of validation images.
        unseen: of images of held-out sources.
        limit: maximum OOD score of a routed image, standardized.
        least: lowest threshold of each label.
        target_error: maximum error rate of the val images that are routed to a label, 0..1.
        holdout_error: maximum error rate of all held-out images that are routed, 0..1.
    """
    options = [
        _candidates(val, unseen, limit, label, lowest, target_error)
        for label, lowest in enumerate(least)
    ]
    chosen = [of[0] for of in options]
    for price in PRICES:
        chosen = [
            max(of, key=lambda c: (c.images - price * c.errors, c.threshold)) for of in options
        ]
        if _is_within(chosen, holdout_error):
            break
    while True:
        changed = [
            [*chosen[:label], candidate, *chosen[label + 1 :]]
            for label, of in enumerate(options)
            for candidate in of
            if candidate.images > chosen[label].images
        ]
        better = [one for one in changed if _is_within(one, holdout_error)]
        if not better:
            return [candidate.threshold for candidate in chosen]
        chosen = max(better, key=lambda one: sum(candidate.images for candidate in one))


def _candidates(
    val: Predictions,
    unseen: Predictions,
    limit: float,
    label: int,
    lowest: float,
    target_error: float,
) -> list[_Candidate]:
    """Return the thresholds that a label may have, ascending; without those above the target error.

    A higher threshold can have the higher error rate: it may leave out right images only. If no
    threshold keeps the target error, all are returned.
    """
    thresholds = [lowest]
    if (unseen.predicted == label).sum() >= MIN_HOLDOUT_IMAGES:
        thresholds += [threshold for threshold in HOLDOUT_GRID if threshold > lowest]
    candidates = []
    for threshold in thresholds:
        at_home, elsewhere = (
            of.weight
            * (of.predicted == label)
            * (of.confidence >= threshold)
            * (of.ood_zscores <= limit)
            for of in (val, unseen)
        )
        errors, number = float(elsewhere[unseen.wrong].sum()), float(elsewhere.sum())
        images = float(at_home.sum())
        is_within = bool(at_home[val.wrong].sum() <= target_error * images)
        candidates.append(_Candidate(threshold, images + number, number, errors, is_within))
    return [candidate for candidate in candidates if candidate.is_within_target] or candidates


def _is_within(chosen: Sequence[_Candidate], holdout_error: float) -> bool:
    errors = sum(candidate.errors for candidate in chosen)
    return errors <= holdout_error * sum(candidate.unseen for candidate in chosen)


def error_bound(of: Predictions, kept: Flags) -> float:
    """Return the upper bound of the error rate of selected images; see `upper_bound`."""
    return upper_bound(*effective_counts(of.wrong[kept], of.weight[kept]))


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several networks for images of one set of labels, as one."""
    return Predictions(
        np.concatenate([one.probabilities for one in parts]),
        np.concatenate([one.labels for one in parts]),
        np.concatenate([one.ood_zscores for one in parts]),
        np.concatenate([one.weight for one in parts]),
        parts[0].names,
    )


def _lowest_threshold(
    confidence: Reals,
    wrong: Flags,
    weights: Reals,
    target_error: float,
    at_least: float = MIN_THRESHOLD,
) -> float:
    """Return the lowest threshold that keeps the target error; the highest if none does."""
    for threshold in GRID:
        if threshold < at_least:
            continue
        kept = confidence >= threshold
        if kept.any() and weights[kept & wrong].sum() <= target_error * weights[kept].sum():
            return threshold
    return MAX_THRESHOLD


def _common_threshold(val: Predictions, limit: float, target_error: float) -> float:
    """Return the last of the descending thresholds that proves the target; the lowest if none does.

    Thresholds that keep too few images to prove anything are skipped.
    """
    in_distribution, common = val.ood_zscores <= limit, None
    for threshold in reversed(GRID):
        kept = in_distribution & (val.confidence >= threshold)
        if upper_bound(0, effective_counts(val.wrong[kept], val.weight[kept])[1]) > target_error:
            continue
        if error_bound(val, kept) > target_error:
            break
        common = threshold
    return MIN_THRESHOLD if common is None else common
