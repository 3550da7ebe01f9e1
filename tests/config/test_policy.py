"""The decision follows the policy, and its digest covers what decides."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.config.derivation import Derivation
from transforms.config.expectations import Expectations
from transforms.config.policy import (
    MAX_COMBINED_CONFIDENCE,
    MIN_COMBINED_CONFIDENCE,
    OFF,
    ON,
    SHOW,
    Decision,
    ModelLimits,
    Policy,
    decide,
)
from transforms.config.retention import Retention
from transforms.core.labels import (
    ABDOMINAL,
    ADULT_CHEST,
    DEFAULT_LABELS,
    HEADER_REGIONS,
    LABELS,
    PEDIATRIC_CHEST,
    SPINE,
    LabelSet,
)
from transforms.core.reasons import Reason
from transforms.imaging.header_evidence import CLAIMS, HeaderClaims, HeaderReliability
from transforms.imaging.radiograph_table import RadiographTable
from transforms.lake.table_settings import TableSettings
from transforms.lake.view_columns import View, Views

LEARNED = HeaderReliability(1, 500, 400, {"body_part_region": {"": {SPINE: {"SPINE": 300}}}})
POLICY = Policy().with_defaults(ModelLimits(dict.fromkeys(LABELS, 0.8), ood_threshold=-1.0))


def probabilities(**by_label: float) -> list[float]:
    rest = (1 - sum(by_label.values())) / (len(LABELS) - len(by_label))
    return [by_label.get(label, rest) for label in LABELS]


def decided(
    chances: list[float],
    ood: float,
    age: float | None,
    policy: Policy,
    long_side: int = 2000,
    views: Views | None = None,
) -> Decision:
    return decide(chances, ood, policy, age_years=age, long_side=long_side, views=views)


@pytest.mark.parametrize(
    ("left", "right", "age", "reason"),
    [
        ((SPINE, 0.99), (SPINE, 0.98), None, Reason.CONFIDENT),
        ((SPINE, 0.99), (ABDOMINAL, 0.95), None, Reason.VIEWS_DISAGREE),
        ((SPINE, 0.99), (ABDOMINAL, 0.85), None, Reason.CONFIDENT),
        ((ADULT_CHEST, 0.95), (PEDIATRIC_CHEST, 0.95), None, Reason.VIEWS_DISAGREE),
        ((ADULT_CHEST, 0.95), (PEDIATRIC_CHEST, 0.95), 40.0, Reason.CONFIDENT),
        ((ADULT_CHEST, 0.95), (PEDIATRIC_CHEST, 0.95), 2000.0, Reason.VIEWS_DISAGREE),
        ((ADULT_CHEST, 0.95), (SPINE, 0.95), 40.0, Reason.VIEWS_DISAGREE),
    ],
)
def test_views_disagree_only_if_both_are_confident(
    left: tuple[str, float], right: tuple[str, float], age: float | None, reason: Reason
) -> None:
    views = Views(View(*left), View(*right))
    chances = probabilities(spine=0.9)
    assert decided(chances, -5, age, POLICY, views=views).reason == reason
    assert decided(chances, 5, age, POLICY, views=views).reason == Reason.OUT_OF_DISTRIBUTION


def test_a_header_does_not_decide_between_views() -> None:
    views = Views(View(SPINE, 0.99), View(ABDOMINAL, 0.95))
    claims = HeaderClaims(body_part_region="SPINE", protocol_name_region="SPINE")
    found = [
        decide(
            probabilities(spine=0.7),
            -5,
            POLICY,
            age_years=None,
            long_side=999,
            views=one,
            header=claims,
        )
        for one in (None, views)
    ]
    assert [one.reason for one in found] == [Reason.SETTLED_BY_HEADER, Reason.VIEWS_DISAGREE]


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
    decision = decided(
        chances, -5, 5.0, POLICY.with_defaults(ModelLimits(dict.fromkeys(LABELS, 0.5), 0))
    )
    assert (decision.predicted_label, decision.decided_label) == ("abdominal", PEDIATRIC_CHEST)
    assert decision.confidence == pytest.approx(0.58)
    assert decided(chances, -5, None, POLICY).decided_label == "abdominal"


BY_AGE = ModelLimits(
    dict.fromkeys(LABELS, 0.9), 0.0, age_thresholds={ADULT_CHEST: 0.6, PEDIATRIC_CHEST: 0.7}
)


@pytest.mark.parametrize(
    ("policy", "age", "threshold"),
    [
        (Policy(), None, 0.9),
        (Policy(), 40.0, 0.6),
        (Policy(), 4.0, 0.7),
        (Policy(thresholds={SPINE: 0.5}), 40.0, 0.6),
        (Policy(thresholds={ADULT_CHEST: 0.95}), 40.0, 0.95),
        (Policy(thresholds={ADULT_CHEST: 0.95}), 4.0, 0.7),
        (Policy(age_thresholds={ADULT_CHEST: 0.5}), 40.0, 0.5),
        (Policy(thresholds={ADULT_CHEST: 0.95}, age_thresholds={ADULT_CHEST: 0.5}), 40.0, 0.5),
    ],
)
def test_an_image_that_an_age_decides_has_a_threshold_of_its_own(
    policy: Policy, age: float | None, threshold: float
) -> None:
    """A threshold that the policy states is valid with and without an age, unless it states both."""
    complete = policy.with_defaults(BY_AGE)
    for other in (complete, complete.with_defaults(BY_AGE)):
        for margin, is_routed in ((0.001, True), (-0.001, False)):
            both = threshold + margin
            child = 0.0 if age is None else 0.1
            chances = probabilities(adult_chest=both - child, pediatric_chest=child)
            decision = decided(chances, -5, age, other)
            assert decision.confidence == pytest.approx(both)
            assert (decision.destination != "review") == is_routed
            assert decision.threshold == threshold


def test_an_age_threshold_that_changes_nothing_is_in_no_policy_id() -> None:
    same = replace(BY_AGE, age_thresholds={ADULT_CHEST: 0.9})
    none = replace(BY_AGE, age_thresholds={})
    ids = [Policy().with_defaults(limits).policy_id for limits in (none, same, BY_AGE)]
    assert ids[0] == ids[1] != ids[2]


def test_a_header_that_decides_with_an_age_needs_the_threshold_of_the_age() -> None:
    limits = replace(BY_AGE, age_thresholds={ADULT_CHEST: 0.9, PEDIATRIC_CHEST: 0.99})
    policy = Policy().with_defaults(limits)
    chances = probabilities(adult_chest=0.4, pediatric_chest=0.3, spine=0.25)
    header = HeaderClaims(body_part_region="CHEST")

    def reason(age: float) -> Reason:
        return decide(chances, -5, policy, age_years=age, long_side=999, header=header).reason

    combined = decide(chances, -5, policy, age_years=40, long_side=999, header=header)
    assert combined.combined_confidence is not None
    assert 0.95 < combined.combined_confidence < 0.99
    assert (reason(40), reason(4)) == (Reason.SETTLED_BY_HEADER, Reason.LOW_CONFIDENCE)


def test_an_image_of_a_few_pixels_is_reviewed() -> None:
    small = decided(probabilities(spine=0.99), -5, None, POLICY, long_side=63)
    assert (small.destination, small.reason) == ("review", Reason.TOO_SMALL)
    assert decided(probabilities(spine=0.99), -5, None, POLICY, long_side=64).destination == SPINE


def test_age_does_not_matter_for_a_spine() -> None:
    assert decided(probabilities(spine=0.9), -5, 4.0, POLICY).destination == SPINE


probability = st.floats(0.001, 1)
regions = st.none() | st.sampled_from(HEADER_REGIONS)
headers = st.builds(
    HeaderClaims,
    regions,
    regions,
    regions,
    regions,
    st.sampled_from([None, "PA", "AP", "LL", "X"]),
    st.none() | st.floats(0.1, 100),
    st.sampled_from([None, "Fuji", "FUJI", "Other"]),
)
reliabilities = st.builds(
    lambda numbers: HeaderReliability(
        1, 1000, 500, {s: {"": n, "FUJI": n} for s, n in zip(CLAIMS, numbers, strict=True)}
    ),
    st.lists(
        st.dictionaries(
            st.sampled_from(LABELS),
            st.dictionaries(st.sampled_from(HEADER_REGIONS), st.integers(0, 500)),
        ),
        min_size=len(CLAIMS),
        max_size=len(CLAIMS),
    ),
)


@pytest.mark.slow
@given(
    st.lists(probability, min_size=5, max_size=5),
    st.sampled_from([-5.0, 5.0]),
    st.none() | st.floats(0.1, 100),
    headers,
    reliabilities,
    st.sampled_from([32, 2000]),
    st.sampled_from(["route", "review"]),
)
@settings(max_examples=100)
def test_a_header_never_changes_what_is_not_left_open(
    weights: list[float],
    ood: float,
    age: float | None,
    header: HeaderClaims,
    reliability: HeaderReliability,
    long_side: int,
    action: str,
) -> None:
    """Only an image that would be reviewed for low confidence is decided by its header."""
    chances = [weight / sum(weights) for weight in weights]
    policy = replace(POLICY, on_age_contradiction=action, header_reliability=reliability)
    plain = decided(chances, ood, age, policy, long_side)
    for mode in (OFF, SHOW, ON):
        with_header = decide(
            chances,
            ood,
            replace(policy, header_evidence=mode),
            age_years=age,
            long_side=long_side,
            header=header,
        )
        without = replace(with_header, combined_label=None, combined_confidence=None)
        if mode != ON or plain.reason != Reason.LOW_CONFIDENCE:
            assert without == plain
        elif without != plain:
            assert with_header.reason == Reason.SETTLED_BY_HEADER
            assert with_header.destination == with_header.combined_label
            assert with_header.combined_confidence is not None
            threshold = policy.thresholds[with_header.destination]
            assert with_header.combined_confidence >= min(
                max(threshold, MIN_COMBINED_CONFIDENCE), MAX_COMBINED_CONFIDENCE
            )
        if mode == OFF:
            assert with_header == plain


def test_a_header_decides_what_pixels_leave_open() -> None:
    chances = probabilities(spine=0.6, abdominal=0.39)
    spine = HeaderClaims(body_part_region="SPINE")
    decision = decide(chances, -5, POLICY, age_years=None, long_side=99, header=spine)
    assert (decision.destination, decision.reason) == (SPINE, Reason.SETTLED_BY_HEADER)
    assert decision.confidence == pytest.approx(0.6)
    assert decision.combined_confidence == pytest.approx(0.6 * 17 / (0.6 * 17 + 0.4), rel=0.001)
    chest = HeaderClaims(body_part_region="CHEST")
    decision = decide(chances, -5, POLICY, age_years=None, long_side=99, header=chest)
    assert (decision.destination, decision.reason) == ("review", Reason.LOW_CONFIDENCE)


def test_a_header_and_an_age_decide_together() -> None:
    chances = probabilities(abdominal=0.45, adult_chest=0.3, pediatric_chest=0.24)
    header = HeaderClaims(body_part_region="CHEST", patient_age_years=5.0)
    decision = decide(chances, -5, POLICY, age_years=5.0, long_side=99, header=header)
    assert (decision.destination, decision.reason) == (PEDIATRIC_CHEST, Reason.SETTLED_BY_HEADER)
    assert decision.confidence == pytest.approx(0.54)


def test_elements_of_one_header_are_not_independent() -> None:
    """Two elements that agree count once, and two that contradict each other cancel out."""
    prior, chances = HeaderReliability(), probabilities(spine=0.6)
    once = prior.combine(chances, HeaderClaims(body_part_region="SPINE"))
    both = HeaderClaims(body_part_region="SPINE", protocol_name_region="SPINE")
    contradicting = HeaderClaims(body_part_region="SPINE", protocol_name_region="ABDOMEN")
    assert prior.combine(chances, both) == pytest.approx(once)
    cancelled = prior.combine(probabilities(spine=0.4, abdominal=0.4), contradicting)
    assert cancelled is not None
    assert cancelled[LABELS.index(SPINE)] == pytest.approx(cancelled[LABELS.index("abdominal")])
    assert prior.combine(chances, HeaderClaims(manufacturer="Fuji")) is None


def test_views_and_ages_count_as_much_as_a_lake_has_shown() -> None:
    chances = probabilities(spine=0.6)
    region = HeaderClaims(body_part_region="OTHER")
    view = replace(region, view_position="PA", patient_age_years=40.0)
    prior = HeaderReliability()
    assert prior.combine(chances, view) == pytest.approx(prior.combine(chances, region))
    assert prior.combine(chances, replace(view, body_part_region=None)) is None
    counts = {"view_position": {"": {SPINE: {"AP": 500}, ADULT_CHEST: {"PA": 500}}}}
    learned = HeaderReliability(1, 1000, 1000, counts)
    before, after = (learned.combine(chances, one) for one in (region, view))
    assert before is not None and after is not None
    assert after[LABELS.index(SPINE)] < before[LABELS.index(SPINE)] / 2
    assert after[LABELS.index(ADULT_CHEST)] > before[LABELS.index(ADULT_CHEST)] * 2


def test_a_manufacturer_is_estimated_from_all_until_it_has_data() -> None:
    def spine(reliability: HeaderReliability, manufacturer: str) -> float:
        header = HeaderClaims(body_part_region="SPINE", manufacturer=manufacturer)
        combined = reliability.combine(probabilities(spine=0.6), header)
        assert combined is not None
        return combined[LABELS.index(SPINE)]

    def learned(of_fuji: int) -> HeaderReliability:
        right = {label: {str(DEFAULT_LABELS.header_region_of(label)): 1000} for label in LABELS}
        wrong = {label: {"SPINE": of_fuji} for label in LABELS}
        return HeaderReliability(1, 0, 0, {"body_part_region": {"": right, "FUJI": wrong}})

    assert spine(HeaderReliability(), "Fuji") == spine(HeaderReliability(), "Agfa")
    assert spine(learned(0), " fuji ") == pytest.approx(spine(learned(0), "Agfa"))
    assert spine(learned(0), "Agfa") > spine(HeaderReliability(), "Agfa")
    falling = [spine(learned(number), "Fuji") for number in (0, 20, 200, 20_000)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(0.6, abs=0.01)  # a console that claims SPINE for everything


CHANGES: dict[str, Any] = {
    "thresholds": {**POLICY.thresholds, SPINE: 0.81},
    "age_thresholds": {ADULT_CHEST: 0.7},
    "ood_threshold": -1.5,
    "min_long_side": 65,
    "adult_from_years": 16.0,
    "age_contradiction": 0.9,
    "on_age_contradiction": "route",
    "radiographs": RadiographTable(modalities=frozenset({"XA"})),
    "header_evidence": "show",
    "header_reliability": LEARNED,
    "sinks": {SPINE: "/mnt/spine"},
    "expect": Expectations(min_objects=1),
    "thumbnails": "none",
    "header_attributes": frozenset({"StudyDate"}),
    "label_set": LabelSet(DEFAULT_LABELS.labels),
    "by_region": frozenset({SPINE}),
    "publish": TableSettings(delta=True),
    "derive": {SPINE: Derivation("deidentify", "/run/key")},
    "retention": Retention({"review": 90}),
}
DECIDES_NOTHING = (
    "sinks", "by_region", "derive", "expect", "thumbnails", "publish", "header_attributes",
    "retention",
)  # fmt: skip


@pytest.mark.parametrize("changed", [field.name for field in fields(Policy)])
def test_the_policy_id_covers_all_that_decides_and_nothing_else(changed: str) -> None:
    other = replace(POLICY, **{changed: CHANGES[changed]})
    assert (other.policy_id == POLICY.policy_id) == (changed in DECIDES_NOTHING)
    assert len(other.policy_id) == 16


@pytest.mark.slow
def test_the_policy_id_is_the_same_in_every_process() -> None:
    command = "from tests.config.test_policy import POLICY; print(POLICY.policy_id)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == POLICY.policy_id
