"""Answers of reviewers, which see doubtful images first, set thresholds as a random sample would."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import softmax

from models.training.calibration.refit import (
    NOT_A_LABEL,
    Answers,
    Images,
    Present,
    Refit,
    refit,
)
from models.training.evaluation.metrics import effective_counts
from transforms.core.labels import LABELS

PRESENT = Present(1.0, dict.fromkeys(LABELS, 0.9), 0.0)
TARGET = 0.02
LOGIT = 9.0


class Site:
    """Images of a site, whose labels are known to the test and to reviewers only."""

    def __init__(self, seed: int, number: int = 20_000) -> None:
        self.rng = np.random.default_rng(seed)
        self.labels = self.rng.integers(0, len(LABELS), number)
        logits = self.rng.normal(0, LOGIT**0.5, (number, len(LABELS)))
        logits[np.arange(number), self.labels] += LOGIT  # whose softmax is calibrated
        self.probabilities = softmax(logits, axis=1)
        self.confidence = self.probabilities.max(1)
        self.predicted = self.probabilities.argmax(1)
        self.wrong = self.predicted != self.labels
        self.in_review = self.confidence < 0.9
        self.images = Images(
            self.probabilities, np.ones(number, bool), self.in_review, np.zeros(number, bool)
        )

    def refit(
        self, answered: np.ndarray, min_answers: int = 20, present: Present = PRESENT
    ) -> Refit:
        """Refit on the answers about some images."""
        answers = Answers(
            answered,
            self.labels[answered],
            self.probabilities[answered],
            np.full(len(answered), -1.0),
        )
        return refit(self.images, answers, present, target_error=TARGET, min_answers=min_answers)

    def drawn(self, among: np.ndarray, number: int) -> np.ndarray:
        """A random sample of the images that fulfil a condition."""
        return self.rng.choice(np.flatnonzero(among), number, replace=False)

    def answered(self) -> np.ndarray:
        """Most of the review queue, and few of the routed images."""
        queue = self.drawn(self.in_review, 1500)
        return np.concatenate([queue, self.drawn(~self.in_review, 600)])

    def error(self, thresholds: Mapping[str, float], temperature: float = 1.0) -> float:
        """The error rate among what is routed, of all images."""
        confidence = softmax(np.log(self.probabilities) / temperature, axis=1).max(1)
        routed = confidence >= np.array(list(thresholds.values()))[self.predicted]
        return float(self.wrong[routed].mean())


def test_counts_of_equal_weights_are_the_plain_ones() -> None:
    wrong = np.array([True, False, False, False])
    assert effective_counts(wrong, np.full(4, 7.0)) == pytest.approx((1, 4))
    errors, images = effective_counts(wrong, np.array([1.0, 1, 1, 9]))
    assert errors / images == pytest.approx(1 / 12)
    assert 1 < images < 2
    assert effective_counts(wrong[:0], np.empty(0)) == (0, 0)


def test_the_error_is_that_of_all_images_and_not_of_the_answered_ones() -> None:
    site = Site(1)
    answered = site.answered()
    found = site.refit(answered)
    whole = float(site.wrong[~site.in_review].mean())
    assert found.before["error"] == pytest.approx(whole, abs=0.005)
    coverage = float((~site.in_review).mean())
    assert found.before["coverage"] == pytest.approx(coverage, abs=0.01)
    assert site.wrong[answered].mean() > 3 * site.wrong.mean() > 0  # of the answers alone


def test_thresholds_are_lowered_as_far_as_the_answers_allow() -> None:
    site = Site(12)
    found = site.refit(site.answered())
    assert found.changeable == list(LABELS)
    assert all(threshold < 0.9 for threshold in found.thresholds.values())
    error = site.error(found.thresholds, found.temperature)
    assert site.error(PRESENT.thresholds) < error < TARGET
    assert found.evidence["target_proved"]
    assert found.evidence["coverage"] > found.before["coverage"]


@pytest.mark.slow
def test_a_proved_target_holds_at_the_site() -> None:
    """At most one in twenty refits may be proved wrongly."""
    site = Site(3)
    proved = violated = 0
    for _ in range(40):
        found = site.refit(site.answered())
        proved += found.evidence["target_proved"]
        violated += (
            found.evidence["target_proved"]
            and site.error(found.thresholds, found.temperature) > TARGET
        )
    assert proved > 20
    assert violated <= 4


def test_the_temperature_of_an_overconfident_model_is_found_by_biased_answers() -> None:
    site = Site(4)
    overconfident = softmax(2 * np.log(site.probabilities), axis=1)
    site.images = site.images._replace(probabilities=overconfident)
    site.probabilities = overconfident
    found = site.refit(site.answered())
    assert found.temperature == pytest.approx(2, rel=0.15)


def test_answers_about_the_review_queue_alone_change_nothing() -> None:
    site = Site(5)
    found = site.refit(site.drawn(site.in_review, 1500))
    assert found.changeable == []
    assert found.thresholds == PRESENT.thresholds
    assert found.temperature == PRESENT.temperature
    assert all(of.answers > 20 > of.routed_answers == 0 for of in found.labels.values())


def test_answers_about_routed_images_alone_lower_nothing() -> None:
    """What would be routed by a lower threshold has no answers."""
    site = Site(6)
    found = site.refit(site.drawn(~site.in_review, 1000))
    assert found.changeable == list(LABELS)
    assert all(threshold >= 0.9 for threshold in found.thresholds.values())


def test_few_answers_without_errors_lower_nothing() -> None:
    """The bound of 20 answers does not prove the target, whatever they say."""
    site = Site(10)
    site.labels = site.predicted
    answered = np.concatenate([site.drawn(site.in_review, 300), site.drawn(~site.in_review, 100)])
    found = site.refit(answered, min_answers=1)
    assert found.changeable
    assert found.evidence["error"] == 0
    assert not found.evidence["target_proved"]
    assert found.thresholds == PRESENT.thresholds
    assert found.temperature == PRESENT.temperature


def test_labels_with_too_few_answers_keep_threshold_and_temperature() -> None:
    site = Site(7)
    answered = site.answered()
    rare = LABELS.index("spine")
    few = answered[(site.predicted[answered] != rare) | (np.arange(len(answered)) % 20 == 0)]
    found = site.refit(few)
    assert found.evidence["kept"] == ["spine"]
    assert found.thresholds["spine"] == 0.9
    assert found.temperature == PRESENT.temperature
    assert site.refit(few, min_answers=1).evidence["kept"] in ([], ["spine"])
    absent = site.images.probabilities.argmax(1) != rare
    site.images = Images(*(column[absent] for column in site.images))
    numbers = np.cumsum(absent) - 1
    kept = answered[absent[answered]]
    answers = Answers(
        numbers[kept], site.labels[kept], site.probabilities[kept], np.full(len(kept), -1.0)
    )
    without = refit(site.images, answers, PRESENT, target_error=TARGET, min_answers=20)
    assert without.evidence["kept"] == ["spine"]
    assert without.temperature != PRESENT.temperature


def test_images_that_are_no_radiographs_raise_the_threshold() -> None:
    site = Site(8)
    before = site.refit(site.answered())
    adult = LABELS.index("adult_chest")
    no_radiograph = (
        (site.predicted == adult) & (site.confidence < 0.97) & (site.rng.random(20_000) < 0.5)
    )
    site.labels = np.where(no_radiograph, NOT_A_LABEL, site.labels)
    after = site.refit(site.answered())
    assert after.thresholds["adult_chest"] > before.thresholds["adult_chest"]
    assert after.before["labels"]["adult_chest"]["wrong"] > 0


def test_out_of_distribution_images_are_not_routed_and_do_not_count() -> None:
    site = Site(9)
    answered = site.answered()
    answers = Answers(
        answered, site.labels[answered], site.probabilities[answered], np.full(len(answered), 1.0)
    )
    far = site.images._replace(in_distribution=np.zeros(20_000, bool))
    found = refit(far, answers, PRESENT, target_error=TARGET, min_answers=1)
    assert found.changeable == []
    assert found.before["routed"] == 0
