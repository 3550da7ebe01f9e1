"""The policy file is checked whole, and the decision follows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from transforms.config.policy import Decision, Policy, PolicyError, decide, parse_policy
from transforms.core.labels import ADULT_CHEST, LABELS, PEDIATRIC_CHEST, SPINE
from transforms.core.reasons import Reason

POLICY = Policy().with_defaults(dict.fromkeys(LABELS, 0.8), ood_threshold=-1.0)
TEMPLATE = Path(__file__).parents[2] / "templates" / "policy.yaml"


def probabilities(**by_label: float) -> list[float]:
    rest = (1 - sum(by_label.values())) / (len(LABELS) - len(by_label))
    return [by_label.get(label, rest) for label in LABELS]


def decided(
    chances: list[float],
    ood: float,
    age: float | None,
    policy: Policy,
    long_side: int = 2000,
) -> Decision:
    return decide(chances, ood, policy, age_years=age, long_side=long_side)


def test_confident_films_are_routed() -> None:
    decision = decided(probabilities(spine=0.9), -5, None, POLICY)
    assert (decision.destination, decision.reason) == (SPINE, Reason.CONFIDENT)
    assert decision.confidence == 0.9


@pytest.mark.parametrize(
    ("spine", "ood", "reason"),
    [(0.79, -5, Reason.LOW_CONFIDENCE), (0.99, 0.0, Reason.OUT_OF_DISTRIBUTION)],
)
def test_others_are_reviewed(spine: float, ood: float, reason: Reason) -> None:
    decision = decided(probabilities(spine=spine), ood, None, POLICY)
    assert (decision.destination, decision.reason) == ("review", reason)
    assert decision.predicted_label == SPINE


@pytest.mark.parametrize(
    ("age", "destination", "reason"),
    [
        (40.0, ADULT_CHEST, Reason.SETTLED_BY_AGE),
        (18.0, ADULT_CHEST, Reason.SETTLED_BY_AGE),
        (17.9, PEDIATRIC_CHEST, Reason.SETTLED_BY_AGE),
        (None, "review", Reason.LOW_CONFIDENCE),
        (0.0, "review", Reason.LOW_CONFIDENCE),
        (400.0, "review", Reason.LOW_CONFIDENCE),
    ],
)
def test_a_plausible_age_settles_the_chests(
    age: float | None, destination: str, reason: Reason
) -> None:
    decision = decided(probabilities(adult_chest=0.5, pediatric_chest=0.45), -5, age, POLICY)
    assert (decision.destination, decision.reason) == (destination, reason)
    assert decision.predicted_label == ADULT_CHEST


@pytest.mark.parametrize(
    ("age", "action", "destination", "reason"),
    [
        (5.0, "route", PEDIATRIC_CHEST, Reason.AGE_CONTRADICTED),
        (5.0, "review", "review", Reason.AGE_CONTRADICTED),
        (50.0, "review", ADULT_CHEST, Reason.SETTLED_BY_AGE),
        (None, "review", ADULT_CHEST, Reason.CONFIDENT),
    ],
)
def test_a_row_says_that_age_and_pixels_contradict_each_other(
    age: float | None, action: str, destination: str, reason: Reason
) -> None:
    policy = replace(POLICY, on_age_contradiction=action)
    decision = decided(probabilities(adult_chest=0.985, pediatric_chest=0.005), -5, age, policy)
    assert (decision.destination, decision.reason) == (destination, reason)
    unsure = decided(probabilities(adult_chest=0.9, pediatric_chest=0.09), -5, 5.0, policy)
    assert (unsure.destination, unsure.reason) == (PEDIATRIC_CHEST, Reason.SETTLED_BY_AGE)
    low = decided(probabilities(adult_chest=0.6, pediatric_chest=0.005), -5, 5.0, policy)
    assert (low.destination, low.reason) == ("review", Reason.AGE_CONTRADICTED)


def test_an_age_counts_both_chests_together() -> None:
    chances = probabilities(abdominal=0.4, adult_chest=0.35, pediatric_chest=0.23)
    decision = decided(chances, -5, 5.0, POLICY.with_defaults(dict.fromkeys(LABELS, 0.5), 0))
    assert (decision.predicted_label, decision.decided_label) == ("abdominal", PEDIATRIC_CHEST)
    assert decision.confidence == pytest.approx(0.58)
    assert decided(chances, -5, None, POLICY).decided_label == "abdominal"


def test_a_film_of_a_few_pixels_is_reviewed() -> None:
    small = decided(probabilities(spine=0.99), -5, None, POLICY, long_side=63)
    assert (small.destination, small.reason) == ("review", Reason.TOO_SMALL)
    assert decided(probabilities(spine=0.99), -5, None, POLICY, long_side=64).destination == SPINE


def test_age_says_nothing_of_a_spine() -> None:
    assert decided(probabilities(spine=0.9), -5, 4.0, POLICY).destination == SPINE


def test_the_template_is_valid_and_equals_the_defaults() -> None:
    policy = parse_policy(TEMPLATE.read_text())
    assert policy == Policy()


def test_a_policy_says_all_that_it_can() -> None:
    policy = parse_policy("""
thresholds: {spine: 0.95}
ood_threshold: -2
min_long_side: 10
age: {adult_from_years: 16, contradiction: 0.9, on_contradiction: review}
sinks: {spine: /mnt/spine}
radiographs:
  sop_classes: [1.2.840.10008.5.1.4.1.1.12.1]
  modalities: [xa]
  excluded_image_types: []
""")
    assert policy.thresholds == {SPINE: 0.95}
    assert policy.ood_threshold == -2.0
    assert policy.adult_from_years == 16
    assert (policy.age_contradiction, policy.on_age_contradiction) == (0.9, "review")
    assert policy.min_long_side == 10
    assert policy.sinks == {SPINE: "/mnt/spine"}
    assert (
        policy.radiographs.exclusion_reason("1.2.840.10008.5.1.4.1.1.12.1", "XA", ("SCREEN SAVE",))
        is None
    )
    assert decided(
        probabilities(spine=0.9), -5, None, policy.with_defaults(POLICY.thresholds, 0)
    ) == (decided(probabilities(spine=0.9), -5, None, policy.with_defaults(POLICY.thresholds, 9)))


def test_every_error_is_listed_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy("""
threshold: {}
thresholds: {spine: 2, hand: 0.5, others: true}
ood_threshold: high
min_long_side: 0
age: {adult_from_years: -1, contradiction: 0.2, on_contradiction: ask}
sinks: {spine: relative/path, elsewhere: /x}
radiographs: {sop_classes: ["../x"], modalities: CR}
""")
    message = str(caught.value)
    for part in (
        "threshold: unknown", "thresholds.spine", "thresholds.hand", "thresholds.others",
        "ood_threshold", "min_long_side", "age.adult_from_years", "age.contradiction",
        "age.on_contradiction", "sinks.spine", "sinks.elsewhere",
        "radiographs.sop_classes", "radiographs.modalities",
    ):  # fmt: skip
        assert part in message


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "thresholds: 3"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_an_empty_policy_is_the_default() -> None:
    assert parse_policy("") == Policy()
