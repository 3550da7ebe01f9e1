"""Temperature and thresholds keep their guarantees, and held-out images raise them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from models.training.calibration.by_age import with_right_ages
from models.training.calibration.calibrate import calibrate, fit_temperature
from models.training.calibration.thresholds import (
    MIN_HOLDOUT_IMAGES,
    Predictions,
    choose_rule,
    concatenated,
)
from models.training.evaluation.metrics import expected_calibration_error, upper_bound
from transforms.core.labels import (
    ADULT_CHEST,
    DEFAULT_LABELS,
    LABELS,
    PEDIATRIC_CHEST,
    SPINE,
    LabelSet,
)


def test_an_upper_bound_is_that_of_clopper_and_pearson() -> None:
    assert upper_bound(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(3, 100) == pytest.approx(0.0757, abs=1e-4)
    assert upper_bound(0, 0) == 1


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, len(LABELS))).astype(np.float32)
    chances = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = np.array([rng.choice(len(LABELS), p=p / p.sum()) for p in chances.astype(float)])
    assert fit_temperature(true * 3, labels) == pytest.approx(3, rel=0.1)
    assert expected_calibration_error(chances, labels) < 0.02


def simulate(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of a network with 90 % accuracy, OOD scores, and the labels."""
    labels = rng.integers(0, len(LABELS), number)
    logits = rng.normal(0, 1.5, (number, len(LABELS))).astype(np.float32)
    logits[np.arange(number), labels] += 4
    return logits, rng.normal(-5, 2, number), labels


def test_thresholds_keep_the_target_error_on_their_data() -> None:
    found = calibrate(*simulate(np.random.default_rng(1), 3000), target_error=0.02)
    for label, of in found.evidence["labels"].items():
        assert of["wrong"] <= 0.02 * of["routed"], label
    assert 0 < found.evidence["coverage"] < 1
    assert found.evidence["target_proved"]
    assert found.evidence["error_upper_95"] <= 0.02


def test_no_threshold_that_held_out_images_raise_exceeds_the_target_error() -> None:
    """From 0.81 to 0.90, 3 of 120 val images are wrong, from 0.80 down 3 of 220."""

    def spines(images: dict[float, tuple[int, int]]) -> Predictions:
        """Return right and wrong images of each confidence."""
        rows, labels = [], []
        for confidence, numbers in images.items():
            row = np.full(len(LABELS), (1 - confidence) / (len(LABELS) - 1))
            row[LABELS.index(SPINE)] = confidence
            for label, number in zip((SPINE, ADULT_CHEST), numbers, strict=True):
                rows += [row] * number
                labels += [LABELS.index(label)] * number
        return Predictions(np.array(rows), np.array(labels), np.zeros(len(labels)))

    val = spines({0.8: (100, 0), 0.9: (97, 3), 0.97: (20, 0)})
    unseen = spines({0.8: (50, 50), 0.9: (100, 0), 0.97: (100, 0)})
    rule = choose_rule(val, [unseen], 0.02, holdout_error=0.01)
    routed = rule.routes(val)
    assert val.wrong[routed].mean() <= 0.02
    assert 0.9 < rule.thresholds[SPINE] <= 0.97
    assert choose_rule(val, [], 0.02).thresholds[SPINE] <= 0.8


@pytest.mark.slow
def test_a_proved_target_holds_for_new_images() -> None:
    """At most one in twenty calibrations on 600 images may be proved wrongly."""
    rng = np.random.default_rng(2)
    logits, _, labels = simulate(rng, 200_000)
    proved = violated = 0
    for _ in range(60):
        found = calibrate(*simulate(rng, 600), target_error=0.02)
        probabilities = softmax(logits / found.temperature, axis=1)
        predicted, least = probabilities.argmax(1), list(found.thresholds.values())
        routed = probabilities.max(1) >= np.array(least)[predicted]
        proved += found.evidence["target_proved"]
        violated += found.evidence["target_proved"] and (predicted != labels)[routed].mean() > 0.02
    assert proved > 40
    assert violated <= 6  # of 60; more than 6 by chance three times in a hundred


def test_nothing_is_proved_with_few_images() -> None:
    few = calibrate(*simulate(np.random.default_rng(3), 40), target_error=0.02)
    assert not few.evidence["target_proved"]


def test_errors_on_held_out_images_raise_a_labels_threshold() -> None:
    rng = np.random.default_rng(4)
    here = simulate(rng, 3000)
    logits, _, drawn_labels = simulate(rng, 3000)
    labels = np.where((drawn_labels == 0) & (rng.random(3000) < 0.1), 3, drawn_labels)
    ood_zscores = rng.normal(3, 1, 3000)
    alone = calibrate(*here, target_error=0.02)
    unseen = Predictions(softmax(logits, axis=1), labels, ood_zscores)
    found = calibrate(*here, target_error=0.02, holdout=[unseen], holdout_error=0.01)
    assert (found.ood_threshold + 5) / 2 == pytest.approx(3 + 2.05, abs=0.15)
    assert (alone.ood_threshold + 5) / 2 == pytest.approx(2.58, abs=0.2)
    assert found.thresholds[LABELS[0]] > alone.thresholds[LABELS[0]]
    assert found.temperature == alone.temperature
    (metrics,) = found.evidence["holdout"]
    assert metrics["images"] == 3000
    as_if_alone = choose_rule(_predictions(here, alone.temperature), [], 0.02)
    assert metrics["routed"] == as_if_alone.routes(unseen).sum()
    assert not metrics["labels"][LABELS[0]]["target_met"]
    together = found.evidence["holdout_together"]
    assert 0 < together["wrong"] <= 0.01 * together["routed"]
    routed = {label: of["routed"] for label, of in together["labels"].items()}
    assert routed[LABELS[0]] < min(routed[label] for label in LABELS[1:])


def test_held_out_images_are_reviewed_where_errors_are_confident() -> None:
    """Of two labels with the same confidences, the one that is often wrong elsewhere is reviewed."""
    rng = np.random.default_rng(6)
    predicted = np.repeat([0, 1], 2000)
    confidence = np.tile(rng.uniform(0.5, 1, 2000), 2)
    probabilities = np.full((4000, len(LABELS)), (1 - confidence[:, None]) / (len(LABELS) - 1))
    probabilities[np.arange(4000), predicted] = confidence
    labels = predicted.copy()
    labels[:100] = 2  # at every confidence
    labels[2000 + np.argsort(confidence[2000:])[:100]] = 2  # at the lowest confidences only
    unseen = Predictions(probabilities, labels, np.zeros(4000))
    val = Predictions(probabilities, predicted, np.zeros(4000))
    rule = choose_rule(val, [unseen], 0.02, holdout_error=0.01)
    thresholds = rule.thresholds
    assert thresholds[LABELS[0]] > 0.9 > 0.6 > thresholds[LABELS[1]]
    routed = rule.routes(unseen)
    assert unseen.wrong[routed].mean() <= 0.01
    assert routed.sum() > 1800
    strict, lenient = (
        choose_rule(val, [unseen], 0.02, holdout_error=error).routes(unseen).sum()
        for error in (0.001, 0.05)
    )
    assert strict <= routed.sum() <= lenient


@pytest.mark.parametrize("at_home", [0, 1])
def test_the_allowed_error_is_spent_where_it_routes_images_of_the_own_sources(at_home: int) -> None:
    """Elsewhere both labels are alike, and the error allows to route the less confident images of one."""

    def predictions(*groups: tuple[int, float, int, int]) -> Predictions:
        """Return predictions of groups of label, confidence, and number of right and of wrong images."""
        predicted = np.concatenate([np.full(right + wrong, of) for of, _, right, wrong in groups])
        confidence = np.concatenate(
            [np.full(right + wrong, level) for _, level, right, wrong in groups]
        )
        is_wrong = np.concatenate([np.arange(r + w) >= r for _, _, r, w in groups])
        number, rest = len(predicted), len(LABELS) - 1
        probabilities = np.repeat((1 - confidence[:, None]) / rest, len(LABELS), axis=1)
        probabilities[np.arange(number), predicted] = confidence
        return Predictions(probabilities, np.where(is_wrong, 2, predicted), np.zeros(number))

    groups = [(of, level, *n) for of in (0, 1) for level, n in ((0.98, (490, 0)), (0.9, (10, 8)))]
    val = predictions((at_home, 0.9, 300, 0), (1 - at_home, 0.98, 300, 0))
    unseen = predictions(*groups)
    rule = choose_rule(val, [unseen], 0.02, holdout_error=0.01)
    assert rule.thresholds[LABELS[at_home]] <= 0.9 < rule.thresholds[LABELS[1 - at_home]]
    assert rule.routes(val).all()
    assert rule.routes(unseen).sum() == 998


def _predictions(of: tuple[np.ndarray, np.ndarray, np.ndarray], temperature: float) -> Predictions:
    logits, scores, labels = of
    ood_zscores = (scores - scores.mean()) / scores.std()
    return Predictions(softmax(logits / temperature, axis=1), labels, ood_zscores)


def test_few_held_out_images_do_not_count() -> None:
    rng = np.random.default_rng(5)
    val = _predictions(simulate(rng, 3000), 1.0)
    logits, scores, labels = simulate(rng, 1000)
    some = np.flatnonzero(logits.argmax(1) == 2)[: MIN_HOLDOUT_IMAGES - 1]
    wrong = Predictions(softmax(logits[some], axis=1), (labels[some] + 1) % 5, scores[some] * 0)
    assert choose_rule(val, [wrong], 0.02, holdout_error=0.01) == choose_rule(val, [], 0.02)


def test_the_proof_covers_everything_routed() -> None:
    """Held-out images raise the threshold of a label without errors, so the rest exceeds the target."""
    predicted = np.repeat([0, 1], [600, 900])
    labels = predicted.copy()
    labels[:5] = 2
    probabilities = np.full((1500, len(LABELS)), 0.01)
    probabilities[np.arange(1500), predicted] = 0.96
    val = Predictions(probabilities, labels, np.zeros(1500))
    unseen = Predictions(probabilities, np.zeros(1500, np.int64), np.zeros(1500))
    alone = choose_rule(val, [], 0.01)
    rule = choose_rule(val, [unseen], 0.01, holdout_error=0.01)
    assert alone.is_proved
    assert alone.routes(val).sum() == 1500
    assert rule.thresholds[LABELS[1]] > 0.96
    assert rule.routes(val).sum() == 600
    assert not rule.is_proved


def chests(
    counts: dict[tuple[str, str], int], confidence: float = 0.9, between: float = 0.6
) -> Predictions:
    """Return predictions of chests, which leave the age group open.

    Args:
        counts: images by true label and more probable age group.
        confidence: sum of both age groups.
        between: share of the more probable one.
    """
    rows, labels = [], []
    for (true, likely), number in counts.items():
        row = np.full(len(LABELS), (1 - confidence) / 3)
        row[LABELS.index(ADULT_CHEST)] = row[LABELS.index(PEDIATRIC_CHEST)] = (
            1 - between
        ) * confidence
        row[LABELS.index(likely)] = between * confidence
        rows += [row] * number
        labels += [LABELS.index(true)] * number
    return Predictions(np.array(rows), np.array(labels, np.int64), np.zeros(len(labels)))


def test_an_age_decides_between_its_groups_as_in_a_run() -> None:
    by_age = with_right_ages(
        concatenated(
            [
                chests({(ADULT_CHEST, PEDIATRIC_CHEST): 2, (PEDIATRIC_CHEST, ADULT_CHEST): 1}),
                chests({(SPINE, ADULT_CHEST): 3}, 0.7),
                chests({(ADULT_CHEST, PEDIATRIC_CHEST): 5}, between=0.99),  # the pixels contradict
                chests({(SPINE, ADULT_CHEST): 7}, 0.2),  # another label is more probable
            ]
        ),
        DEFAULT_LABELS,
    )
    assert by_age.is_decided.tolist() == [True] * 11 + [False] * 7
    found = by_age.predictions
    assert found.names == (PEDIATRIC_CHEST, ADULT_CHEST)
    assert [found.names[index] for index in found.predicted] == [
        *[ADULT_CHEST] * 2, PEDIATRIC_CHEST, *[ADULT_CHEST] * 3,
    ]  # fmt: skip
    assert found.confidence.tolist() == pytest.approx([0.9] * 3 + [0.7] * 3)
    assert found.wrong.tolist() == [False] * 3 + [True] * 3


def test_ages_route_chests_that_cannot_be_told_apart_without() -> None:
    """Adolescents look like adults; with an age, only other body parts are wrong."""
    rng = np.random.default_rng(7)
    here = simulate(rng, 3000)
    elsewhere = concatenated(
        [
            chests(
                {(ADULT_CHEST, ADULT_CHEST): 1000, (PEDIATRIC_CHEST, ADULT_CHEST): 200}, 0.97, 0.97
            ),
            chests({(SPINE, ADULT_CHEST): 50, (SPINE, PEDIATRIC_CHEST): 50}, 0.8),
            *(
                Predictions(
                    np.eye(5)[[label] * 300] * 0.995 + 0.001, np.full(300, label), np.zeros(300)
                )
                for label in (0, 3, 4)
            ),
        ]
    )
    found = calibrate(*here, target_error=0.02, holdout=[elsewhere], holdout_error=0.01)
    by_age = found.evidence["by_age"]
    assert set(found.age_thresholds) == {PEDIATRIC_CHEST, ADULT_CHEST}
    assert all(0.8 < threshold <= 0.97 for threshold in found.age_thresholds.values())
    together, alone = by_age["holdout_together"], found.evidence["holdout_together"]
    assert (together["routed"], together["wrong"]) == (1200, 0)
    assert together["all_images"]["routed"] == 1200 + alone["routed"] == 2100
    assert together["all_images"]["wrong"] == 0
    assert by_age["images"] < by_age["all_images"]["images"] == 3000
    assert by_age["wrong"] <= 0.02 * by_age["routed"]
    lenient = calibrate(
        *here,
        target_error=0.02,
        holdout=[elsewhere],
        holdout_error=0.01,
        holdout_error_without_age=0.2,
    )
    assert lenient.age_thresholds == found.age_thresholds
    without = lenient.evidence["holdout_together"]
    assert without["routed"] > alone["routed"]
    assert 0.01 < without["error"] <= lenient.evidence["holdout_error"] == 0.2


def test_labels_without_age_groups_have_no_age_thresholds() -> None:
    here = simulate(np.random.default_rng(1), 3000)
    found = calibrate(*here, target_error=0.02, label_set=LabelSet(DEFAULT_LABELS.labels))
    assert found.age_thresholds == {}
    assert "by_age" not in found.evidence
