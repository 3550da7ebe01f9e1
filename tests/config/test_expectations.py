"""What a policy expects is compared with the counts of a run; too little is not judged."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from transforms.config.expectations import (
    DriftExpectation,
    Expectations,
    check_counts,
)
from transforms.config.policy import Policy
from transforms.config.policy_file import PolicyError, parse_policy
from transforms.core.labels import LABELS
from transforms.lake.drift import Predictions, measure_drift, population_stability_index
from transforms.lake.run_counts import RunCounts

NIGHT = RunCounts(
    counts=Counter(
        discovered=300,
        routed=150,
        review=50,
        not_xray=20,
        quarantined=30,
        duplicate=10,
        unchanged=40,
    ),
    headers=Counter(agree=90, disagree=10),
)


def unmet(expected: Expectations, counts: RunCounts = NIGHT) -> list[str]:
    checked = check_counts(expected, counts, "LAKE")
    assert all(one.text.count(one.key) == 1 for one in checked)
    return [one.text for one in checked if not one.met]


@pytest.mark.parametrize(
    ("key", "met", "missed", "found"),
    [
        ("min_objects", 300, 301, "found 300;"),
        ("min_new_objects", 260, 261, "found 260;"),
        ("max_review_share", 0.25, 0.24, "found 25.0% (50 of 200);"),
        ("max_quarantine_share", 0.12, 0.11, "found 12.0% (30 of 250);"),
        ("max_header_disagreement_share", 0.1, 0.09, "found 10.0% (10 of 100);"),
    ],
)
def test_a_limit_itself_is_met(key: str, met: float, missed: float, found: str) -> None:
    assert unmet(Expectations(**{key: met})) == []  # type: ignore[arg-type]
    (text,) = unmet(Expectations(**{key: missed}))  # type: ignore[arg-type]
    assert found in text, "what was found, then what to do"


def test_shares_of_few_objects_are_not_judged_but_a_night_of_quarantine_is() -> None:
    few = RunCounts(counts=Counter(discovered=3, quarantined=3))
    (text,) = unmet(Expectations(max_quarantine_share=0.1, max_review_share=0), few)
    assert text.startswith("expected some objects that are not quarantined")
    assert "found 0 of 3" in text
    assert unmet(Expectations(not_all_quarantined=False), few) == []
    (text,) = unmet(
        Expectations(max_quarantine_share=0.1, not_all_quarantined=False, min_sample=3), few
    )
    assert "found 100.0% (3 of 3)" in text
    assert unmet(Expectations(), RunCounts(counts=Counter(discovered=9, unchanged=9))) == []


def test_drift_is_found_beyond_chance_and_in_the_right_quantity() -> None:
    random = np.random.default_rng(7)

    def predictions(number: int, shift: float) -> Predictions:
        labels = Counter(random.choice(LABELS, number).tolist())
        scores = random.normal(shift, 1, number)
        return Predictions(labels, random.uniform(0.5, 1, number), scores)

    baseline = predictions(2000, 0)
    same = measure_drift(predictions(500, 0), baseline)
    assert all(same.psi[name] < max(0.1, same.by_chance[name]) for name in same.psi)
    other = measure_drift(predictions(500, 1), baseline)
    assert other.largest[0] == "ood_score"
    assert other.largest[1] > 0.5


def test_psi_is_that_of_the_definition() -> None:
    p, q = np.array([60.5, 40.5]) / 101, np.array([20.5, 80.5]) / 101
    expected = sum((p - q) * np.log(p / q))
    assert population_stability_index([60, 40], [20, 80]) == pytest.approx(expected)
    assert population_stability_index([5, 5], [50, 50]) == pytest.approx(0)


def test_a_policy_file_has_every_expectation_and_lists_all_errors() -> None:
    policy = parse_policy("""
expect:
  min_objects: 10
  min_new_objects: 5
  max_review_share: 0.3
  max_quarantine_share: 0.02
  max_header_disagreement_share: 0.1
  min_sample: 50
  not_all_quarantined: false
  drift: {max_psi: 0.25, baseline: 2026-10-01/2026-10-31, min_images: 100}
""")
    drift = DriftExpectation(max_psi=0.25, baseline=("2026-10-01", "2026-10-31"), min_images=100)
    assert policy.expect == Expectations(10, 5, 0.3, 0.02, 0.1, 50, False, drift)
    assert policy.policy_id == Policy().policy_id, "expectations decide nothing"
    with pytest.raises(PolicyError) as caught:
        parse_policy("""
expect: {min_objects: 0, max_review: 0.2, max_quarantine_share: 20,
         drift: {max_psi: 0, baseline: 2026-02-30/2026-03-01}}
""")
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "5 errors",
        "expect.min_objects: must be ≥ 1",
        "expect.max_quarantine_share: must be ≤ 1",
        "expect.drift.max_psi: must be > 0",
        "expect.drift.baseline: must be two days, YYYY-MM-DD/YYYY-MM-DD",
        "expect.max_review: unknown; did you mean max_review_share?",
    ]
