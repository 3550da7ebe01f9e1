"""The decision follows the policy, and its digest covers what decides."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from transforms.config.expectations import Expectations
from transforms.config.policy import Decision, Policy, decide
from transforms.core.labels import ADULT_CHEST, LABELS, PEDIATRIC_CHEST, SPINE
from transforms.core.reasons import Reason
from transforms.imaging.radiograph_table import RadiographTable

POLICY = Policy().with_defaults(dict.fromkeys(LABELS, 0.8), ood_threshold=-1.0)


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


def test_confident_images_are_routed() -> None:
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
def test_a_plausible_age_decides_between_the_chests(
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
def test_a_contradiction_of_age_and_pixels_is_a_reason(
    age: float | None, action: str, destination: str, reason: Reason
) -> None:
    policy = replace(POLICY, on_age_contradiction=action)
    decision = decided(probabilities(adult_chest=0.985, pediatric_chest=0.005), -5, age, policy)
    assert (decision.destination, decision.reason) == (destination, reason)
    unsure = decided(probabilities(adult_chest=0.9, pediatric_chest=0.09), -5, 5.0, policy)
    assert (unsure.destination, unsure.reason) == (PEDIATRIC_CHEST, Reason.SETTLED_BY_AGE)
    low = decided(probabilities(adult_chest=0.6, pediatric_chest=0.005), -5, 5.0, policy)
    assert (low.destination, low.reason) == ("review", Reason.AGE_CONTRADICTED)


def test_an_age_that_confident_pixels_contradict_is_reviewed_by_default() -> None:
    for chest, age in ((ADULT_CHEST, 5.0), (PEDIATRIC_CHEST, 50.0)):
        decision = decided(probabilities(**{chest: 1.0}), -5, age, POLICY)
        assert (decision.destination, decision.reason) == ("review", Reason.AGE_CONTRADICTED)


def test_an_age_counts_both_chests_together() -> None:
    chances = probabilities(abdominal=0.4, adult_chest=0.35, pediatric_chest=0.23)
    decision = decided(chances, -5, 5.0, POLICY.with_defaults(dict.fromkeys(LABELS, 0.5), 0))
    assert (decision.predicted_label, decision.decided_label) == ("abdominal", PEDIATRIC_CHEST)
    assert decision.confidence == pytest.approx(0.58)
    assert decided(chances, -5, None, POLICY).decided_label == "abdominal"


def test_an_image_of_a_few_pixels_is_reviewed() -> None:
    small = decided(probabilities(spine=0.99), -5, None, POLICY, long_side=63)
    assert (small.destination, small.reason) == ("review", Reason.TOO_SMALL)
    assert decided(probabilities(spine=0.99), -5, None, POLICY, long_side=64).destination == SPINE


def test_age_does_not_matter_for_a_spine() -> None:
    assert decided(probabilities(spine=0.9), -5, 4.0, POLICY).destination == SPINE


CHANGES: dict[str, Any] = {
    "thresholds": {**POLICY.thresholds, SPINE: 0.81},
    "ood_threshold": -1.5,
    "min_long_side": 65,
    "adult_from_years": 16.0,
    "age_contradiction": 0.9,
    "on_age_contradiction": "route",
    "radiographs": RadiographTable(modalities=frozenset({"XA"})),
    "sinks": {SPINE: "/mnt/spine"},
    "expect": Expectations(min_objects=1),
    "thumbnails": "none",
}


@pytest.mark.parametrize("changed", [field.name for field in fields(Policy)])
def test_the_policy_id_covers_all_that_decides_and_nothing_else(changed: str) -> None:
    other = replace(POLICY, **{changed: CHANGES[changed]})
    assert (other.policy_id == POLICY.policy_id) == (changed in ("sinks", "expect", "thumbnails"))
    assert len(other.policy_id) == 16


def test_the_policy_id_is_the_same_in_every_process() -> None:
    command = "from tests.config.test_policy import POLICY; print(POLICY.policy_id)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == POLICY.policy_id
