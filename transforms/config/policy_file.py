"""Parse and validate the policy file (YAML); all errors are reported together, each with its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema

from transforms.config.expectations import DriftExpectation, Expectations
from transforms.config.policy import HeaderEvidence, Policy
from transforms.config.policy_publish import Publish
from transforms.config.policy_sinks import SinkValue, require_labels_by_region
from transforms.config.policy_yaml import load_mapping
from transforms.config.retention import Retention
from transforms.config.validation import invalid, list_errors, unknown_name
from transforms.core.errors import UsageError
from transforms.core.labels import NAME_PATTERN, OTHER_SINKS, LabelSet, label_problem
from transforms.imaging.age import MAX_PLAUSIBLE_AGE_YEARS
from transforms.imaging.radiograph_table import RadiographTable
from transforms.imaging.uids import is_valid_uid

SCHEMA_NAME: Final = "policy.schema.json"
MAX_BASELINE_DAYS: Final = 3650
_DEFAULT: Final = Policy()
_EXPECT: Final = _DEFAULT.expect


V = TypeVar("V")


class PolicyError(UsageError):
    """The policy file is invalid; the message lists every error."""


def _require_label(name: str, info: ValidationInfo) -> str:
    labels: LabelSet | None = info.context
    if labels is not None and name not in labels.names:
        raise invalid(unknown_name(name, labels.names))
    if why := label_problem(name):
        raise invalid(why)
    return name


def _require_age_group(name: str, info: ValidationInfo) -> str:
    labels: LabelSet | None = info.context
    if labels is not None and name not in (labels.age_groups or ()):
        raise invalid(
            f"an age decides between {' and '.join(labels.age_groups)} only"
            if labels.age_groups
            else "no age decides between labels of this model"
        )
    return _require_label(name, info)


def _require_sink(name: str, info: ValidationInfo) -> str:
    labels: LabelSet | None = info.context
    if name in OTHER_SINKS:
        return name
    if labels is not None and name not in labels.names:
        raise invalid(unknown_name(name, labels.sinks))
    return _require_label(name, info)


def _require_uid(uid: str) -> str:
    if not is_valid_uid(uid.strip()):
        raise invalid(f"{uid!r} is not a UID")
    return uid.strip()


def _require_attributes(keywords: list[str]) -> list[str]:
    from transforms.imaging.header_attributes import attribute_problems  # imports pydicom

    if problems := attribute_problems(keywords):
        raise invalid("; ".join(problems))
    return keywords


def _require_days(text: str) -> str:
    try:
        first, last = map(date.fromisoformat, text.split("/"))
    except ValueError:
        raise invalid("must be two days, YYYY-MM-DD/YYYY-MM-DD") from None
    if f"{first}/{last}" != text:
        raise invalid("must be two days, YYYY-MM-DD/YYYY-MM-DD")
    if first > last:
        raise invalid("the first day is after the last")
    return text


def _from_yaml_boolean(value: object) -> object:
    """Return "on" and "off" for what YAML 1.1 reads from them."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Days = Annotated[
    str,
    AfterValidator(_require_days),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[0-9]{4}(-[0-9]{2}){2}/[0-9]{4}(-[0-9]{2}){2}$"}
    ),
]
_NAME_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$"})
LabelName = Annotated[
    str,
    AfterValidator(_require_label),
    _NAME_SCHEMA,
]
AgeGroupName = Annotated[str, AfterValidator(_require_age_group), _NAME_SCHEMA]
SinkName = Annotated[
    str,
    AfterValidator(_require_sink),
    _NAME_SCHEMA,
]
Uid = Annotated[
    str,
    AfterValidator(_require_uid),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 64}),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def given(self) -> dict[str, Any]:
        """Return the values that are not null, by key."""
        return _given(dict(self))


class AgeRule(_Section):
    """How Patient's Age (0010,1010) decides between adult and pediatric chest."""

    adult_from_years: FiniteFloat = Field(
        default=_DEFAULT.adult_from_years,
        gt=0,
        lt=MAX_PLAUSIBLE_AGE_YEARS,
        description="Age in years from which a chest is an adult's.",
    )
    contradiction: FiniteFloat = Field(
        default=_DEFAULT.age_contradiction,
        gt=0.5,
        le=1,
        description="Probability of the other chest, relative to both, from which the pixels "
        "contradict the age.",
    )
    on_contradiction: Literal["route", "review"] = Field(
        default="review",
        description="What becomes of an image whose age and pixels contradict each other: route it "
        "by age if the confidence suffices, or send it to review.",
    )
    thresholds: dict[AgeGroupName, Share | None] = Field(
        default={},
        description="Minimum probability of both chests together, 0 to 1, from which an image is routed "
        "to the label that the age chooses; a label that is absent takes its value in thresholds, or "
        "else the model bundle's.",
    )


class Radiographs(_Section):
    """What counts as a projection radiograph, in addition to the default table."""

    sop_classes: list[Uid] = Field(
        default=[], description="SOP Class UIDs to add to the default table."
    )
    modalities: list[str] = Field(
        default=[], description="Modalities of secondary captures to add to the default table."
    )
    excluded_image_types: list[str] | None = Field(
        default=None,
        description="Values of Image Type (0008,0008) that exclude; replaces the default.",
    )

    def table(self) -> RadiographTable:
        """Return the default table with these additions."""
        default = RadiographTable()
        excluded = self.excluded_image_types
        return RadiographTable(
            sop_classes=default.sop_classes | {uid.strip() for uid in self.sop_classes},
            modalities=default.modalities | _upper(self.modalities),
            excluded_image_types=default.excluded_image_types
            if excluded is None
            else _upper(excluded),
        )


class Drift(_Section):
    """How far predictions may drift from those for earlier images."""

    max_psi: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=_EXPECT.drift.max_psi,
        description="Maximum population stability index of predicted labels, confidences and OOD scores; "
        "0.25 is a usual value; null does not check drift.",
    )
    baseline_days: int = Field(
        default=_EXPECT.drift.baseline_days,
        ge=1,
        le=MAX_BASELINE_DAYS,
        description="Days before a run whose rows in the lake are the baseline.",
    )
    baseline: Days | None = Field(
        default=None,
        description="A fixed baseline, instead of baseline_days: first and last day, "
        "YYYY-MM-DD/YYYY-MM-DD.",
    )
    min_images: int = Field(
        default=_EXPECT.drift.min_images,
        ge=1,
        description="Minimum number of images, of the run and of the baseline, to check drift.",
    )

    def expectation(self) -> DriftExpectation:
        """Return the expectation that the section describes."""
        values = self.given()
        if self.baseline is not None:
            first, _, last = self.baseline.partition("/")
            values["baseline"] = first, last
        return DriftExpectation(**values)


class Expect(_Section):
    """What a complete run is expected to find; otherwise it exits with 3 and the reason."""

    min_objects: Positive | None = Field(
        default=None,
        description="Minimum number of objects that the inputs list, ingested before or not.",
    )
    min_new_objects: Positive | None = Field(
        default=None, description="Minimum number of objects that the lake did not have before."
    )
    max_review_share: Share | None = Field(
        default=None, description="Maximum share of review among the radiographs of a run, 0 to 1."
    )
    max_quarantine_share: Share | None = Field(
        default=None,
        description="Maximum share of quarantine among the new objects of a run, 0 to 1.",
    )
    max_header_disagreement_share: Share | None = Field(
        default=None,
        description="Maximum share of images that their header contradicts, among those whose header "
        "names a label, 0 to 1.",
    )
    min_sample: int = Field(
        default=_EXPECT.min_sample,
        ge=1,
        description="Minimum number of objects of which a share is checked.",
    )
    not_all_quarantined: bool = Field(
        default=_EXPECT.not_all_quarantined,
        description="Whether a run that quarantines all of its new objects, however few, is unexpected.",
    )
    drift: Drift = Field(default_factory=Drift, description="Drift of the predictions.")

    def expectations(self) -> Expectations:
        """Return the expectations that the section describes."""
        return Expectations(**{**self.given(), "drift": self.drift.expectation()})


class RetentionRules(_Section):
    """How long objects are kept; `retain` erases older ones."""

    days: dict[SinkName, Positive | None] = Field(
        default={},
        description="Days since the last ingestion after which objects are erased, by label, review, "
        "not_xray or quarantine; those of other sinks are kept.",
    )
    legal_holds: str | None = Field(
        default=None,
        description="Path or URI of a list of patient keys, Study Instance UIDs and object keys, one a "
        "line, that neither retain nor forget erases; legal_holds.txt of the lake is always respected.",
    )

    def retention(self) -> Retention:
        """Return the rules that the section describes."""
        return Retention(_given(self.days), self.legal_holds)


class PolicyFile(_Section):
    """Policy of the DICOM Imaging Router."""

    thresholds: dict[LabelName, Share | None] = Field(
        default={},
        description="Minimum calibrated confidence, 0 to 1, from which an image is routed to a "
        "label; a label that is absent takes the model bundle's threshold.",
    )
    ood_threshold: FiniteFloat | None = Field(
        default=None, description="Highest OOD score that is routed; null takes the model bundle's."
    )
    min_long_side: int = Field(
        default=_DEFAULT.min_long_side,
        ge=1,
        description="Minimum of the larger of Rows and Columns of a routed image, in pixels.",
    )
    age: AgeRule = Field(default_factory=AgeRule, description="Adult and pediatric chest.")
    header_evidence: Annotated[HeaderEvidence, BeforeValidator(_from_yaml_boolean)] = Field(
        default=_DEFAULT.header_evidence,
        description="What the header claims about the body part: on decides images whose pixels leave "
        "the label open, show only fills the columns combined_label and combined_confidence, off "
        "neither.",
    )
    sinks: Annotated[dict[SinkName, SinkValue], AfterValidator(require_labels_by_region)] = Field(
        default={},
        description="Roots of sinks outside the lake, by label, review, not_xray or quarantine: "
        "absolute local paths, gs:// or s3:// URIs. Or a mapping: root is the root, if it is outside the "
        "lake; for labels also by, which is region for a folder by predicted region, and derive, with "
        "transform, key_file, root and options, which writes a derived object, such as a de-identified "
        "one, beside each object.",
    )
    radiographs: Radiographs = Field(
        default_factory=Radiographs, description="What counts as a projection radiograph."
    )
    thumbnails: Literal["all", "review", "none"] = Field(
        default="review",
        description="Of which images to store a small image for report and review: all; those in "
        "review and those whose header disagrees with the decision; or none.",
    )
    header_attributes: Annotated[list[str], AfterValidator(_require_attributes)] = Field(
        default=[],
        description="With --headers: keywords (DICOM PS3.6) of attributes that headers/ has besides "
        "those of docs/headers.md, such as StudyDate; values of identifiers are hashed.",
    )
    expect: Expect = Field(
        default_factory=Expect,
        description="What a complete run is expected to find; otherwise it exits with 3.",
    )
    publish: Publish | None = Field(
        default=None,
        description="Tables of open formats as which the index is published; null keeps what the lake "
        "has recorded.",
    )
    retention: RetentionRules = Field(
        default_factory=RetentionRules,
        description="How long objects are kept; retain erases older ones.",
    )

    def policy(self) -> Policy:
        """Return the policy that the file describes."""
        sinks = _given(self.sinks)
        return Policy(
            thresholds=_given(self.thresholds),
            age_thresholds=_given(self.age.thresholds),
            ood_threshold=self.ood_threshold,
            min_long_side=self.min_long_side,
            adult_from_years=self.age.adult_from_years,
            age_contradiction=self.age.contradiction,
            on_age_contradiction=self.age.on_contradiction,
            header_evidence=self.header_evidence,
            sinks=_given({name: sink.root for name, sink in sinks.items()}),
            by_region=frozenset(name for name, sink in sinks.items() if sink.by),
            derive=_given({name: sink.derive for name, sink in sinks.items()}),
            radiographs=self.radiographs.table(),
            expect=self.expect.expectations(),
            thumbnails=self.thumbnails,
            publish=None if self.publish is None else self.publish.settings(),
            header_attributes=frozenset(self.header_attributes),
            retention=self.retention.retention(),
        )


def parse_policy(text: str, labels: LabelSet | None = None) -> Policy:
    """Return the policy in the text of a YAML file.

    Args:
        text: of the file.
        labels: that thresholds and sinks may name; None for any.

    Raises:
        PolicyError: the file is invalid.
    """
    try:
        document = load_mapping(text)
    except ValueError as error:
        raise PolicyError(str(error)) from error
    given = {name: value for name, value in document.items() if value is not None}
    try:
        return PolicyFile.model_validate(given, context=labels).policy()
    except ValidationError as error:
        raise PolicyError(list_errors(error, PolicyFile)) from error


def json_schema() -> str:
    """Return the JSON schema of the policy file, for editors."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PolicyFile.model_json_schema(schema_generator=_Untitled),
    }
    return json.dumps(schema, indent=2) + "\n"


class _Untitled(GenerateJsonSchema):
    """Omit the titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _given(values: Mapping[str, V | None]) -> dict[str, V]:
    """Return the values that are not null, by key."""
    return {name: value for name, value in values.items() if value is not None}


def _upper(values: list[str]) -> frozenset[str]:
    return frozenset(value.strip().upper() for value in values)
