"""The policy file is checked whole, and every error is reported with its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.config.test_policy import POLICY, decided, probabilities
from transforms.config.policy import ModelLimits, Policy
from transforms.config.policy_file import (
    PolicyError,
    PolicyFile,
    json_schema,
    parse_policy,
)
from transforms.core.labels import (
    ADULT_CHEST,
    DEFAULT_LABELS,
    LABELS,
    OTHERS,
    SPINE,
    LabelDefinition,
    LabelSet,
)

TEMPLATE = Path(__file__).parents[2] / "templates" / "policy.yaml"


def errors_of(text: str, labels: LabelSet | None = DEFAULT_LABELS) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, labels)
    return [line.strip() for line in str(caught.value).splitlines()]


def test_the_template_is_valid_and_equals_the_defaults() -> None:
    policy = parse_policy(TEMPLATE.read_text())
    assert policy == Policy()


def test_every_key_of_a_file_reaches_the_policy() -> None:
    policy = parse_policy("""
thresholds: {spine: 0.95}
ood_threshold: -2
min_long_side: 10
age:
  {adult_from_years: 16, contradiction: 0.9, on_contradiction: review, thresholds: {adult_chest: 0.7}}
sinks: {spine: /mnt/spine}
radiographs:
  sop_classes: [1.2.840.10008.5.1.4.1.1.12.1]
  modalities: [xa]
  excluded_image_types: []
""")
    assert policy.thresholds == {SPINE: 0.95}
    assert policy.ood_threshold == -2.0
    assert policy.adult_from_years == 16
    assert policy.age_thresholds == {ADULT_CHEST: 0.7}
    assert (policy.age_contradiction, policy.on_age_contradiction) == (0.9, "review")
    assert policy.min_long_side == 10
    assert policy.sinks == {SPINE: "/mnt/spine"}
    assert (
        policy.radiographs.exclusion_reason("1.2.840.10008.5.1.4.1.1.12.1", "XA", ("SCREEN SAVE",))
        is None
    )
    strict, lenient = (
        policy.with_defaults(ModelLimits(POLICY.thresholds, ood_threshold))
        for ood_threshold in (0, 9)
    )
    chances = probabilities(spine=0.9)
    assert decided(chances, -5, None, strict) == decided(chances, -5, None, lenient)


def test_every_error_is_listed_at_once() -> None:
    assert errors_of("""
threshold: {}
thresholds: {spine: 2, hand: 0.5, others: true, abdominal: .nan}
ood_threshold: high
min_long_side: 0
age: {adult_from_years: 120, contradiction: 0.2, on_contradiction: ask}
sinks: {spine: relative/path, elsewhere: /x, review: "s3://"}
radiographs: {sop_classes: ["../x", 1.2], modalities: CR}
""") == [
        "16 errors",
        "thresholds.spine: must be ≤ 1",
        f"thresholds.hand: unknown; known: {', '.join(LABELS)}",
        "thresholds.others: must be a number",
        "thresholds.abdominal: must be finite",
        "ood_threshold: must be a number",
        "min_long_side: must be ≥ 1",
        "age.adult_from_years: must be < 120",
        "age.contradiction: must be > 0.5",
        "age.on_contradiction: must be 'route' or 'review'",
        "sinks.spine: must be an absolute local path, gs:// or s3://",
        f"sinks.elsewhere: unknown; known: {', '.join(DEFAULT_LABELS.sinks)}",
        "sinks.review: s3:// names no bucket",
        "radiographs.sop_classes[0]: '../x' is not a UID",
        "radiographs.sop_classes[1]: must be text; put it in quotes",
        "radiographs.modalities: must be a list",
        "threshold: unknown; did you mean thresholds?",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("thresholds: {spin: 0.9}", "thresholds.spin: unknown; did you mean spine?"),
        ("sinks: {spine: {by: label}}", "sinks.spine: by: must be 'region'"),
        ("sinks: {spine: {by: region, rot: /x}}", "sinks.spine: rot: unknown; did you mean root?"),
        (
            "sinks: {spine: {root: x}}",
            "sinks.spine: root: must be an absolute local path, gs:// or s3://",
        ),
        ("sinks: {spine: 3}", "sinks.spine: must be text; put it in quotes"),
        (
            "sinks: {review: {by: region}}",
            "sinks: review: by: only sinks of labels have regions",
        ),
        ("age: {adult_from: 18}", "age.adult_from: unknown; did you mean adult_from_years?"),
        ("age: {thresholds: {adult_chest: 2}}", "age.thresholds.adult_chest: must be ≤ 1"),
        (
            "age: {thresholds: {spine: 0.5}}",
            "age.thresholds.spine: an age decides between pediatric_chest and adult_chest only",
        ),
        ("thresholds: 3", "thresholds: must be a mapping"),
        ("thresholds: {1: 0.5}", "thresholds[1]: keys must be text"),
        ("min_long_side: 1.5", "min_long_side: must be a whole number"),
        ("[1, 2]", "the policy must be a mapping"),
    ],
)
def test_an_error_names_its_path_and_what_was_meant(text: str, error: str) -> None:
    assert errors_of(text) == [error]


@pytest.mark.parametrize("text", ["a: [", "min_long_side: 1\nmin_long_side: 2"])
def test_what_is_not_yaml_is_refused_with_its_place(text: str) -> None:
    (message, *_), lines = errors_of(text), errors_of(text)
    assert message.startswith("not valid YAML")
    assert any("line 1, column" in line for line in lines)


@pytest.mark.parametrize("text", ["", "thresholds:\n#  spine: 0.9\n", "thresholds: {spine: null}"])
def test_an_empty_policy_or_section_is_the_default(text: str) -> None:
    assert parse_policy(text) == Policy()


def test_thresholds_and_sinks_are_those_of_the_model() -> None:
    labels = LabelSet((LabelDefinition("hand"), LabelDefinition("knee")))
    text = "thresholds: {hand: 0.5, spine: 0.9}\nsinks: {knee: /x, review: /y, others: /z}"
    assert errors_of(text, labels) == [
        "2 errors",
        "thresholds.spine: unknown; known: hand, knee",
        "sinks.others: unknown; known: hand, knee, review, not_xray, quarantine",
    ]
    policy = parse_policy("thresholds: {hand: 0.5}\nsinks: {knee: /x, review: /y}", labels)
    assert (policy.thresholds, policy.sinks) == ({"hand": 0.5}, {"knee": "/x", "review": "/y"})
    assert errors_of("thresholds: {Hand: 0.5, review: 0.5}", None) == [
        "2 errors",
        "thresholds.Hand: must be lower-case letters, digits and _, and begin with a letter",
        "thresholds.review: is the name of another sink",
    ]


def test_editors_are_given_a_schema_of_every_key() -> None:
    first, *_ = TEMPLATE.read_text().splitlines()
    path = TEMPLATE.parent / first.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads(path.read_text())
    assert schema == json.loads(json_schema())
    assert set(schema["properties"]) == set(PolicyFile.model_fields)
    assert set(yaml.safe_load(TEMPLATE.read_text())) == set(PolicyFile.model_fields)
    assert all(of["description"] for of in schema["properties"].values())


@pytest.mark.parametrize("mode", ["off", "show", "on"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_header_evidence_may_be_unquoted(mode: str, quote: str) -> None:
    """YAML 1.1 reads on and off as booleans."""
    assert parse_policy(f"header_evidence: {quote}{mode}{quote}").header_evidence == mode


def test_a_sink_can_have_folders_by_region() -> None:
    policy = parse_policy(
        "sinks: {others: {by: region}, spine: {root: /x, by: region}, review: {root: /y}}"
    )
    assert policy.by_region == frozenset({OTHERS, SPINE})
    assert policy.sinks == {SPINE: "/x", "review": "/y"}
    assert policy.policy_id == Policy().policy_id
    assert policy.rules() != Policy(sinks=policy.sinks).rules()
