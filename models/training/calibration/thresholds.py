"""Which images are routed: thresholds by label and an OOD limit, chosen on predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from transforms.core.labels import LABELS

MIN_THRESHOLD: Final = 0.5
MAX_THRESHOLD: Final = 0.99
GRID: Final = tuple(
    round(float(t), 2) for t in np.arange(MIN_THRESHOLD, MAX_THRESHOLD + 0.001, 0.01)
)
"""Thresholds to choose from, rising."""
HOLDOUT_ERROR_FACTOR: Final = 2.5
"""How many times as often images of hospitals that were not learnt may be wrong."""
MIN_HOLDOUT_IMAGES: Final = 20
"""Images elsewhere that have to be called a label before they count in its threshold."""
OOD_FALSE_REVIEW: Final = 0.005
"""Share of validation images that the OOD limit may send to review."""
HOLDOUT_OOD_FALSE_REVIEW: Final = 0.1
"""The same of images of hospitals that were not learnt."""
BOUND_CONFIDENCE: Final = 0.95
"""Of the upper bounds of errors."""

Reals = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """What a network says of images, and what they are.

    Attributes:
        probabilities: float[N, n_labels].
        labels: int64[N].
        strangeness: float[N], OOD scores in standard deviations above the mean of the network's own
            val images.
    """

    probabilities: Reals
    labels: Indices
    strangeness: Reals

    @property
    def predicted(self) -> Indices:
        """The likeliest label of each image, int64[N]."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def confidence(self) -> Reals:
        """Its probability, float[N]."""
        return np.asarray(self.probabilities.max(1))

    @property
    def wrong(self) -> Flags:
        """Whether it is another, bool[N]."""
        return np.asarray(self.predicted != self.labels)

    def told(self, label: int) -> tuple[Reals, Flags]:
        """Confidence of the images that are called a label, and whether they are something else."""
        mine = self.predicted == label
        return self.confidence[mine], self.wrong[mine]


@dataclass(frozen=True)
class Rule:
    """What is routed.

    Attributes:
        thresholds: least confidence per label.
        limit: most strangeness.
        is_proved: whether the error of what it routes is proved to be within the target.
    """

    thresholds: dict[str, float]
    limit: float
    is_proved: bool

    def routes(self, of: Predictions) -> Flags:
        """Return which images are routed, bool[N]."""
        least = np.array([self.thresholds[label] for label in LABELS])
        return (of.confidence >= least[of.predicted]) & (of.strangeness <= self.limit)


def choose_rule(mine: Predictions, holdout: Sequence[Predictions], target_error: float) -> Rule:
    """Return the rule that routes the most within these demands.

    - Of the images that are called a label, no more than the target error are wrong, and of images of
      hospitals that were not learnt, taken together, no more than `HOLDOUT_ERROR_FACTOR` times that.
    - The OOD limit reviews no more than `OOD_FALSE_REVIEW` of the images, or
      `HOLDOUT_OOD_FALSE_REVIEW` of strange hospitals', whichever is the higher limit.
    - No threshold is below a common one, which falls as long as the upper bound of the error of all
      that it routes alone is within the target: fixed sequence testing, Angelopoulos et al. 2021,
      "Learn then Test".
    - `is_proved` says whether the bound holds of what the whole rule routes. It is meant for images that
      are drawn as these were, one by one, as if temperature and labels' own thresholds had not been
      chosen on the same images.

    Args:
        mine: validation images.
        holdout: images of sources, by networks that were trained without them.
        target_error: in 0..1.
    """
    strange = Predictions(*map(np.concatenate, zip(*holdout, strict=True))) if holdout else None
    own, limit = [], float(np.quantile(mine.strangeness, 1 - OOD_FALSE_REVIEW))
    for index in range(len(LABELS)):
        threshold = _threshold(*mine.told(index), target_error)
        if strange is not None and len(strange.told(index)[0]) >= MIN_HOLDOUT_IMAGES:
            there = _threshold(*strange.told(index), HOLDOUT_ERROR_FACTOR * target_error)
            threshold = max(threshold, there)
        own.append(threshold)
    if strange is not None:
        there = float(np.quantile(strange.strangeness, 1 - HOLDOUT_OOD_FALSE_REVIEW))
        limit = max(limit, there)
    common = _common_threshold(mine, limit, target_error)
    thresholds = {label: max(common, least) for label, least in zip(LABELS, own, strict=True)}
    rule = Rule(thresholds, limit, is_proved=False)
    return replace(rule, is_proved=_error_bound(mine, rule.routes(mine)) <= target_error)


def upper_bound(errors: int, images: int) -> float:
    """Return the one-sided 95 % bound of an error rate (Clopper and Pearson 1934), 0..1.

    For images that are drawn as those were; of images from elsewhere it says nothing.
    """
    if errors >= images:
        return 1.0
    return float(beta.ppf(BOUND_CONFIDENCE, errors + 1, images - errors))


def _threshold(confidence: Reals, wrong: Flags, target_error: float) -> float:
    """The lowest threshold of the grid whose accepted images keep the target error.

    The highest where none does, or where no image tells.
    """
    for threshold in GRID:
        kept = confidence >= threshold
        if kept.any() and wrong[kept].sum() <= target_error * kept.sum():
            return threshold
    return MAX_THRESHOLD


def _common_threshold(mine: Predictions, limit: float, target_error: float) -> float:
    """The last of the falling thresholds that proves the target; the lowest where none does.

    Thresholds that leave too few images to prove anything, right or wrong, are passed over.
    """
    familiar, common = mine.strangeness <= limit, None
    for threshold in reversed(GRID):
        kept = familiar & (mine.confidence >= threshold)
        if upper_bound(0, int(kept.sum())) > target_error:
            continue
        if _error_bound(mine, kept) > target_error:
            break
        common = threshold
    return MIN_THRESHOLD if common is None else common


def _error_bound(of: Predictions, kept: Flags) -> float:
    return upper_bound(int(of.wrong[kept].sum()), int(kept.sum()))
