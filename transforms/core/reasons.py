"""The closed enums behind the index's `status`, `stage` and `reason`, with what to do about each.

`docs/index-schema.md` is generated from the tables here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    """What became of a source object."""

    ROUTED = "routed"
    REVIEW = "review"
    NOT_XRAY = "not_xray"
    QUARANTINED = "quarantined"
    DUPLICATE = "duplicate"


UNCHANGED: Final = "unchanged"
"""A term of the completeness equation that writes no row: the lake already holds one."""
TERMS: Final = (*(str(status) for status in Status), UNCHANGED)
"""Terms of the completeness equation, in the order in which it is shown."""


class Stage(StrEnum):
    """The step of the graph that decided a row, or that failed."""

    FETCH = "fetch"
    HEADER = "header"
    DECODE = "decode"
    CLASSIFY = "classify"
    DECIDE = "decide"
    SETTLE = "settle"
    PLACE = "place"
    INDEX = "index"


class Reason(StrEnum):
    """Why a row has its status, or why an object could not be accounted for."""

    # routed, review
    CONFIDENT = "confident"
    SETTLED_BY_AGE = "settled_by_age"
    AGE_CONTRADICTED = "age_contradicted"
    LOW_CONFIDENCE = "low_confidence"
    OUT_OF_DISTRIBUTION = "out_of_distribution"
    TOO_SMALL = "too_small"
    # not_xray
    SOP_CLASS = "sop_class"
    MODALITY = "modality"
    IMAGE_TYPE = "image_type"
    # duplicate
    SAME_CONTENT = "same_content"
    # quarantined
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_DICOM = "not_dicom"
    MEDIA_DIRECTORY = "media_directory"
    UNREADABLE_HEADER = "unreadable_header"
    TRUNCATED = "truncated"
    INFLATES_TOO_FAR = "inflates_too_far"
    TOO_MANY_ITEMS = "too_many_items"
    MISSING_UID = "missing_uid"
    INVALID_UID = "invalid_uid"
    NO_PIXEL_DATA = "no_pixel_data"
    BAD_PIXEL_DESCRIPTION = "bad_pixel_description"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    SIZE_MISMATCH = "size_mismatch"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    NESTED_TOO_DEEP = "nested_too_deep"
    TOOK_TOO_LONG = "took_too_long"
    TOO_MUCH_MEMORY = "too_much_memory"
    CRASHED_DECODER = "crashed_decoder"
    INFERENCE_FAILED = "inference_failed"
    # not accounted for: the run is incomplete
    DISAPPEARED = "disappeared"
    PERMISSION_DENIED = "permission_denied"
    READ_FAILED = "read_failed"
    CHANGED = "changed"
    NO_SPACE = "no_space"
    WRITE_FAILED = "write_failed"
    KILLED = "killed"
    NAME_TAKEN = "name_taken"
    OTHER_FILE_SYSTEM = "other_file_system"
    NO_ROW = "no_row"


class Meaning(NamedTuple):
    """What a reason says and what a person can do about it."""

    text: str
    remedy: str


MEANINGS: Final[dict[Reason, Meaning]] = {
    Reason.CONFIDENT: Meaning("the calibrated confidence reaches the label's threshold", ""),
    Reason.SETTLED_BY_AGE: Meaning(
        "the pixels say chest, the patient's age says adult or pediatric", ""
    ),
    Reason.AGE_CONTRADICTED: Meaning(
        "the patient's age says adult or pediatric, the pixels are sure of the other",
        "check the age and the dates in the header; age.on_contradiction in the policy decides "
        "whether such films are routed by age, if confidence suffices, or reviewed",
    ),
    Reason.LOW_CONFIDENCE: Meaning(
        "the calibrated confidence is below the label's threshold",
        "look at the film, or lower the threshold in the policy",
    ),
    Reason.OUT_OF_DISTRIBUTION: Meaning(
        "the film looks unlike those that the model was trained on",
        "look at the film, or raise ood_threshold in the policy",
    ),
    Reason.TOO_SMALL: Meaning(
        "the film has too few pixels to judge it by",
        "look at the film, or lower min_long_side in the policy",
    ),
    Reason.SOP_CLASS: Meaning(
        "the SOP Class is not that of a projection radiograph",
        "extend radiographs.sop_classes in the policy if it should be",
    ),
    Reason.MODALITY: Meaning(
        "a secondary capture whose Modality is not radiographic",
        "extend radiographs.modalities in the policy if it should be",
    ),
    Reason.IMAGE_TYPE: Meaning(
        "the Image Type says report or screen save",
        "change radiographs.excluded_image_types in the policy if it should be routed",
    ),
    Reason.SAME_CONTENT: Meaning("the lake holds these very bytes from another source", ""),
    Reason.EMPTY: Meaning("the object has no bytes", "send it again from its source"),
    Reason.TOO_LARGE: Meaning(
        "the object is larger than --max_object_bytes",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.NOT_DICOM: Meaning(
        "the bytes are no DICOM file (PS3.10)", "remove it from the input, or repair it"
    ),
    Reason.MEDIA_DIRECTORY: Meaning(
        "a DICOMDIR lists objects and is none itself", "route the files that it lists"
    ),
    Reason.UNREADABLE_HEADER: Meaning(
        "the data set cannot be parsed", "send it again from its source"
    ),
    Reason.TRUNCATED: Meaning(
        "the bytes end before the data set does", "send it again from its source"
    ),
    Reason.INFLATES_TOO_FAR: Meaning(
        "the deflated data set grows past --max_object_bytes or by more than --max_inflation",
        "if it is genuine, raise the limit and route it again with --reprocess all",
    ),
    Reason.TOO_MANY_ITEMS: Meaning(
        "the object has more sequence items and fragments than --max_items",
        "look at what sent it; if it is genuine, raise the limit and route it again with --reprocess all",
    ),
    Reason.MISSING_UID: Meaning(
        "Study, Series or SOP Instance UID is missing", "correct the header at its source"
    ),
    Reason.INVALID_UID: Meaning(
        "Study, Series or SOP Instance UID breaks PS3.5 section 9.1",
        "correct the header at its source",
    ),
    Reason.NO_PIXEL_DATA: Meaning(
        "a radiograph without Pixel Data", "send it again from its source"
    ),
    Reason.BAD_PIXEL_DESCRIPTION: Meaning(
        "Rows, Columns, Bits or Photometric Interpretation are missing or contradict each other",
        "correct the header at its source",
    ),
    Reason.TOO_MANY_PIXELS: Meaning(
        "a frame has more pixels than --max_pixels",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.TOO_MANY_FRAMES: Meaning(
        "the object has more frames than --max_frames",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.SIZE_MISMATCH: Meaning(
        "the compressed stream is of another size than Rows and Columns say",
        "correct the header at its source",
    ),
    Reason.UNSUPPORTED_SYNTAX: Meaning(
        "no installed codec reads the Transfer Syntax",
        "install the codec and route it again with --reprocess all, or transcode it at its source",
    ),
    Reason.UNDECODABLE_PIXELS: Meaning(
        "every codec for the Transfer Syntax failed", "send it again from its source"
    ),
    Reason.NESTED_TOO_DEEP: Meaning(
        "sequences are nested deeper than --max_nesting, or than the parser can follow",
        "look at what sent it; if it is genuine, raise the limit and route it again with --reprocess all",
    ),
    Reason.TOOK_TOO_LONG: Meaning(
        "parsing and decoding took longer than --max_object_seconds",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.TOO_MUCH_MEMORY: Meaning(
        "parsing and decoding needed more than --max_memory_bytes",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.CRASHED_DECODER: Meaning(
        "a decoder ended its process, twice", "send it again from its source"
    ),
    Reason.INFERENCE_FAILED: Meaning(
        "the model failed on this film alone", "run 'dicom-router inspect' on it"
    ),
    Reason.DISAPPEARED: Meaning("the object was gone when it was read", "run again"),
    Reason.PERMISSION_DENIED: Meaning(
        "the router may not read or write it", "grant the permission, then run again"
    ),
    Reason.READ_FAILED: Meaning("reading broke off", "check the storage, then run again"),
    Reason.CHANGED: Meaning(
        "the object changed while it was routed", "run again when its writer is done"
    ),
    Reason.NO_SPACE: Meaning("the lake's storage is full", "free space, then run again"),
    Reason.WRITE_FAILED: Meaning(
        "the lake's storage refused a write", "check the storage, then run again"
    ),
    Reason.KILLED: Meaning(
        "a decoding process was ended from outside, perhaps for want of memory",
        "see to memory or lower --fetch_threads, then run again",
    ),
    Reason.NAME_TAKEN: Meaning(
        "other bytes stand under the object's name in the lake",
        "run 'dicom-router verify --deep', remove the damaged object, then run again",
    ),
    Reason.NO_ROW: Meaning(
        "the stream stopped before the object had a row",
        "see what the workers' log says of it, then start the stream again",
    ),
    Reason.OTHER_FILE_SYSTEM: Meaning(
        "a hard link cannot cross file systems", "route with --placement copy"
    ),
}


class ObjectError(Exception):
    """Something is wrong with one object; it never speaks of its content or its name.

    Attributes:
        stage: where it was noticed.
        reason: what is wrong.
        detail: technical words without values from the object, or "".
    """

    def __init__(self, stage: Stage, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ObjectError], tuple[Stage, Reason, str]]:
        return type(self), (self.stage, self.reason, self.detail)


class InvalidObject(ObjectError):
    """The object itself is unfit: it is quarantined and accounted for."""


class ProcessingFailure(ObjectError):
    """The object could not be handled for a reason outside it: the run is incomplete."""
