"""The model bundle: `bundle.json` next to `weights.safetensors` or `weights.onnx`.

A bundle is in a folder or an object store. This module reads the description only and does not import
torch; `models.weights` loads the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from models.architectures import architecture_problem
from models.default_bundle import resolve_uri
from models.onnx_fields import OnnxFields
from transforms.config.policy import ModelLimits
from transforms.config.validation import invalid, list_errors
from transforms.core.errors import UsageError
from transforms.core.labels import NAME_PATTERN, LabelSet, label_problem, label_set_of
from transforms.imaging.preprocessing import PREPROCESSING
from transforms.storage.base import read_whole
from transforms.storage.extras import how_to_install
from transforms.storage.schemes import join, storage_of, uri_problem

FORMAT_VERSION: Final = 1
BUNDLE_FILE: Final = "bundle.json"
WEIGHTS_FILE: Final = "weights.safetensors"
ONNX_FILE: Final = "weights.onnx"
MAX_BYTES: Final = {BUNDLE_FILE: 16 << 20, WEIGHTS_FILE: 8 << 30, ONNX_FILE: (2 << 30) - 1}
"""Maximum size of each file."""
MAX_MEMBERS: Final = 16
REVIEW_ALL: Final = -1e30
"""OOD limit of a bundle that is not calibrated: every image is reviewed."""
MIN_INPUT_SIZE: Final = 32
"""In pixels."""
MAX_INPUT_SIZE: Final = 1024
"""In pixels."""

Probability = Annotated[FiniteFloat, Field(ge=0, le=1)]
InputSize = Annotated[int, Field(ge=MIN_INPUT_SIZE, le=MAX_INPUT_SIZE)]


class BundleError(UsageError):
    """A bundle cannot be used; the message names the bundle, the reason and the remedy."""


def _require_architecture(name: str) -> str:
    if why := architecture_problem(name):
        raise invalid(why)
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RegionFields(_Section):
    """An anatomic region, as in DICOM PS3.16 CID 4031."""

    code: str
    meaning: str


class LabelFields(_Section):
    """A label; see `transforms.core.labels.LabelDefinition`."""

    name: str
    region: RegionFields | None = None
    header_region: Literal["CHEST", "ABDOMEN", "SPINE", "OTHER"] | None = None


class AgeGroupFields(_Section):
    """Names of two labels that the patient's age tells apart."""

    child: str
    adult: str


class LabelSetFields(_Section):
    """What is known of labels besides their names; see `transforms.core.labels.LabelSet`."""

    labels: tuple[LabelFields, ...]
    age_groups: AgeGroupFields | None = None

    def label_set(self) -> LabelSet:
        """Return the set of labels that these fields describe."""
        return LabelSet.from_json(self.model_dump())


def _require_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    if problems := [f"{name!r} {why}" for name in labels if (why := label_problem(name))]:
        raise invalid("; ".join(problems))
    if len(set(labels)) < max(2, len(labels)):
        raise invalid("must be at least two different names")
    return labels


def _require_region_name(name: str) -> str:
    if not NAME_PATTERN.fullmatch(name):
        raise invalid(f"{name!r}: must match {NAME_PATTERN.pattern}")
    return name


class RegionInfo(_Section):
    """A region that the second head of a bundle predicts.

    Attributes:
        name: see `transforms.core.regions`.
        labels: labels whose images can show it.
        code: SNOMED CT code, of DICOM PS3.16 CID 4031 "Common Anatomic Region", or None.
        meaning: of the code, or None.
    """

    name: Annotated[str, AfterValidator(_require_region_name)]
    labels: tuple[str, ...]
    code: str | None = None
    meaning: str | None = None


class RegionsInfo(_Section):
    """The second head of a bundle.

    Attributes:
        regions: region of each output, in order.
        temperature: divisor of its logits, > 0.
        threshold: minimum probability of a region that is given; below it the region is unknown.
        target_precision: share of right regions among the given ones that the threshold was chosen for.
        metrics: on validation data; see `models.training.evaluation.region_metrics`.
    """

    regions: Annotated[tuple[RegionInfo, ...], Field(min_length=2)]
    temperature: Annotated[FiniteFloat, Field(gt=0)]
    threshold: Probability
    target_precision: Probability
    metrics: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions, in the order of the outputs."""
        return tuple(region.name for region in self.regions)

    @property
    def decisive(self) -> list[Any]:
        """What changes the regions that are given, apart from the weights."""
        return [
            self.temperature,
            self.threshold,
            [[one.name, one.code, one.labels] for one in self.regions],
        ]


class BundleInfo(BaseModel):
    """The contents of `bundle.json`.

    Attributes:
        architecture: a timm name, or any name of an ONNX graph.
        labels: label of each output, in order.
        label_definitions: what is known of the labels besides their names; None for labels of which the
            router knows it, or of which nothing is known.
        input_size: side of the square uint8 input, in pixels.
        temperature: divisor of the logits, > 0.
        thresholds: minimum confidence per label for an image to be routed, 0..1.
        ood_threshold: images with a higher OOD score are reviewed.
        age_thresholds: minimum of the summed probabilities of the age groups, by the one that a
            patient's age chooses, 0..1; a label that is absent has its threshold.
        weights_sha256: hex digest of the weights file.
        preprocessing: name of the preprocessing; see `transforms.imaging.preprocessing`.
        calibration: data, coverage and error that the thresholds were set for.
        training: data sources, licences, options and versions.
        metrics: on validation data, and on held-out sources.
        members: input size of each network of an ensemble, in pixels; the largest is `input_size`, and
            images are downsampled for the others. Empty for a single network.
        regions: the second head, or None.
        format_version: of this file.
        onnx: input and output of the network, if it is an ONNX graph.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    architecture: Annotated[str, AfterValidator(_require_architecture)]
    labels: Annotated[tuple[str, ...], AfterValidator(_require_labels)]
    input_size: InputSize
    temperature: Annotated[FiniteFloat, Field(gt=0)]
    thresholds: dict[str, Probability]
    ood_threshold: FiniteFloat
    weights_sha256: str
    preprocessing: str
    calibration: dict[str, Any] = {}
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    members: Annotated[tuple[InputSize, ...], Field(max_length=MAX_MEMBERS)] = ()
    regions: RegionsInfo | None = None
    format_version: Literal[1] = FORMAT_VERSION
    label_definitions: LabelSetFields | None = None
    onnx: OnnxFields | None = None
    age_thresholds: dict[str, Probability] = {}

    @field_validator("thresholds")
    @classmethod
    def _name_every_label(cls, thresholds: dict[str, float], info: ValidationInfo) -> Any:
        labels = info.data.get("labels")
        if labels is not None and sorted(thresholds) != sorted(labels):
            raise invalid("must name exactly the labels")
        return thresholds

    @field_validator("label_definitions")
    @classmethod
    def _describe_every_label(cls, fields: LabelSetFields | None, info: ValidationInfo) -> Any:
        labels = info.data.get("labels")
        if fields is None or labels is None:
            return fields
        if tuple(one.name for one in fields.labels) != labels:
            raise invalid("must describe exactly the labels, in their order")
        groups = fields.age_groups
        named = () if groups is None else (groups.child, groups.adult)
        if len(set(named)) != len(named) or not set(named) <= set(labels):
            raise invalid("age_groups must be two of the labels")
        return fields

    @field_validator("age_thresholds")
    @classmethod
    def _name_age_groups(cls, thresholds: dict[str, float], info: ValidationInfo) -> Any:
        fields, labels = info.data.get("label_definitions"), info.data.get("labels")
        if labels is None:
            return thresholds
        known = label_set_of(labels) if fields is None else fields.label_set()
        if not set(thresholds) <= set(known.age_groups or ()):
            raise invalid("must name labels between which an age decides")
        return thresholds

    @field_validator("preprocessing")
    @classmethod
    def _is_implemented(cls, preprocessing: str) -> str:
        if preprocessing != PREPROCESSING:
            raise invalid(f"{preprocessing!r}; this router implements {PREPROCESSING!r}")
        return preprocessing

    @field_validator("onnx")
    @classmethod
    def _is_one_network(cls, onnx: OnnxFields | None, info: ValidationInfo) -> Any:
        if onnx is not None and (info.data.get("members") or info.data.get("regions")):
            raise invalid("neither an ensemble nor a network with regions is an ONNX graph")
        return onnx

    @field_validator("members")
    @classmethod
    def _fit_the_input(cls, members: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if members and max(members) != info.data.get("input_size", max(members)):
            raise invalid("the largest must be input_size")
        return members

    @property
    def label_set(self) -> LabelSet:
        """The labels, with what is known of them."""
        fields = self.label_definitions
        return label_set_of(self.labels) if fields is None else fields.label_set()

    @property
    def limits(self) -> ModelLimits:
        """What the bundle says about decisions, where a policy says nothing."""
        return ModelLimits(self.thresholds, self.ood_threshold, self.label_set, self.age_thresholds)

    @property
    def weights_file(self) -> str:
        """Name of the file with the network."""
        return WEIGHTS_FILE if self.onnx is None else ONNX_FILE

    @property
    def is_calibrated(self) -> bool:
        """Whether thresholds and OOD limit have been set; without, every image is reviewed."""
        return self.ood_threshold > REVIEW_ALL

    @property
    def model_id(self) -> str:
        """Architecture and a digest of everything that can change a decision."""
        decisive: list[Any] = [
            self.format_version,
            self.architecture,
            self.labels,
            self.input_size,
            self.temperature,
            sorted(self.thresholds.items()),
            self.ood_threshold,
            self.weights_sha256,
            self.preprocessing,
            *self.members,
            *(self.regions.decisive if self.regions is not None else ()),
        ]
        if self.label_set != label_set_of(self.labels):
            decisive.append(self.label_set.to_json())
        if self.age_thresholds:
            decisive.append({"age_thresholds": sorted(self.age_thresholds.items())})
        if self.onnx is not None:
            decisive.append({"onnx": self.onnx.model_dump()})
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        return f"{self.architecture}-{digest[:12]}"


def require_onnxruntime(uri: str) -> None:
    """Raise `BundleError` if ONNX Runtime, which a bundle needs, is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise BundleError(
            f"model bundle {uri}: its network is an ONNX graph, which needs packages that are not "
            f"installed: {how_to_install('onnx')}"
        )


def fields_of(labels: LabelSet) -> LabelSetFields | None:
    """Return what a bundle says about its labels besides their names; None if that is nothing."""
    if labels == label_set_of(labels.names):
        return None
    return LabelSetFields.model_validate_json(json.dumps(labels.to_json()))


def read_info(uri: str) -> BundleInfo:
    """Read and validate `bundle.json` without reading the weights.

    Raises:
        BundleError: The file is missing or invalid; lists every error in it.
    """
    raw = read_file(uri, BUNDLE_FILE)
    try:
        return BundleInfo.model_validate_json(raw)
    except ValidationError as error:
        problems = list_errors(error, BundleInfo)
        raise BundleError(f"model bundle {uri}: {BUNDLE_FILE}: {problems}") from error


def make_info(fields: dict[str, Any]) -> BundleInfo:
    """Return a validated description.

    Raises:
        BundleError: Lists every error in the fields.
    """
    try:
        return BundleInfo(**fields)
    except ValidationError as error:
        raise BundleError(f"{BUNDLE_FILE}: {list_errors(error, BundleInfo)}") from error


def read_file(uri: str, name: str) -> bytes:
    """Return the content of one file of a bundle.

    Raises:
        BundleError: It cannot be read.
    """
    if problem := uri_problem(resolve_uri(uri)):
        raise BundleError(f"model bundle {uri}: {problem}")
    file = join(resolve_uri(uri), name)
    try:
        return read_whole(storage_of(file), file, MAX_BYTES[name])
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BundleError(f"model bundle {uri}: cannot read {name} ({why})") from error
