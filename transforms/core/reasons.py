"""The closed enums of the index columns `status`, `stage` and `reason`, and the remedy for each reason.

`docs/index-schema.md` is generated from the tables here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    """The outcome for a source object."""

    ROUTED = "routed"
    REVIEW = "review"
    NOT_XRAY = "not_xray"
    QUARANTINED = "quarantined"
    DUPLICATE = "duplicate"


UNCHANGED: Final = "unchanged"
"""Term of the completeness equation for objects that already have a current row."""
TERMS: Final = (*(str(status) for status in Status), UNCHANGED)
"""Terms of the completeness equation, in order of display."""
FORGOTTEN: Final = "forgotten"
"""Term for objects that were erased from the lake; a run that finds none has no such term."""


def terms_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the terms of a run's completeness equation; `FORGOTTEN` only if it is not zero."""
    terms = {term: counts[term] for term in TERMS}
    return {**terms, FORGOTTEN: counts[FORGOTTEN]} if counts.get(FORGOTTEN) else terms


class Stage(StrEnum):
    """The step that decided a row or that failed."""

    FETCH = "fetch"
    HEADER = "header"
    DECODE = "decode"
    CLASSIFY = "classify"
    DECIDE = "decide"
    REVIEW = "review"
    SETTLE = "settle"
    PLACE = "place"
    INDEX = "index"


class Reason(StrEnum):
    """Why a row has its status, or why processing an object failed."""

    # routed, review
    CONFIDENT = "confident"
    SETTLED_BY_AGE = "settled_by_age"
    SETTLED_BY_HEADER = "settled_by_header"
    AGE_CONTRADICTED = "age_contradicted"
    LOW_CONFIDENCE = "low_confidence"
    VIEWS_DISAGREE = "views_disagree"
    OUT_OF_DISTRIBUTION = "out_of_distribution"
    TOO_SMALL = "too_small"
    REVIEWED = "reviewed"
    UNREADABLE = "unreadable"
    # not_xray
    SOP_CLASS = "sop_class"
    MODALITY = "modality"
    IMAGE_TYPE = "image_type"
    NOT_RADIOGRAPH = "not_radiograph"
    # duplicate
    SAME_CONTENT = "same_content"
    # quarantined
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_DICOM = "not_dicom"
    UNREADABLE_ARCHIVE = "unreadable_archive"
    ENCRYPTED_MEMBER = "encrypted_member"
    DAMAGED_MEMBER = "damaged_member"
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
    TRANSFER_SYNTAX_MISMATCH = "transfer_syntax_mismatch"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    NESTED_TOO_DEEP = "nested_too_deep"
    TOOK_TOO_LONG = "took_too_long"
    TOO_MUCH_MEMORY = "too_much_memory"
    CRASHED_DECODER = "crashed_decoder"
    INFERENCE_FAILED = "inference_failed"
    # processing failures: no row, the run is incomplete
    INVALID_ENTRY = "invalid_entry"
    ARCHIVE_NOT_COPIED = "archive_not_copied"
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


BY_MODEL, BY_POLICY, BY_PERSON = "model", "policy", "person"
"""Values of the column `decided_by`."""
DECIDED_BY_POLICY: Final = (
    Reason.SETTLED_BY_AGE,
    Reason.SETTLED_BY_HEADER,
    Reason.AGE_CONTRADICTED,
    Reason.TOO_SMALL,
    Reason.SOP_CLASS,
    Reason.MODALITY,
    Reason.IMAGE_TYPE,
)
"""Reasons of rows whose destination was decided by a rule of the policy, not by the model."""


EXCLUSIONS: Final = frozenset({Reason.SOP_CLASS, Reason.MODALITY, Reason.IMAGE_TYPE})
"""Reasons of objects that are valid but not radiographs."""
_ALL: Final = list(Reason)
QUARANTINE_REASONS: Final = frozenset(
    _ALL[_ALL.index(Reason.EMPTY) : _ALL.index(Reason.INFERENCE_FAILED) + 1]
)
"""Reasons of objects that are quarantined."""
FAILURE_REASONS: Final = frozenset(_ALL[_ALL.index(Reason.INVALID_ENTRY) :])
"""Reasons of failures, which no row has."""


class Meaning(NamedTuple):
    """Meaning of a reason, and its remedy, or "" if none is needed."""

    text: str
    remedy: str


MEANINGS: Final[dict[Reason, Meaning]] = {
    Reason.CONFIDENT: Meaning("the calibrated confidence reaches the label's threshold", ""),
    Reason.SETTLED_BY_AGE: Meaning(
        "the pixels show a chest, and the patient's age (patient_age_years) decides between adult and "
        "pediatric (destination)",
        "",
    ),
    Reason.SETTLED_BY_HEADER: Meaning(
        "the pixels leave the label open, and the regions that the header claims make one "
        "(combined_label) confident enough (combined_confidence)",
        "",
    ),
    Reason.AGE_CONTRADICTED: Meaning(
        "the patient's age means adult or pediatric, but the pixels clearly show the other",
        "check the age and the dates in the header; age.on_contradiction in the policy decides "
        "whether such images are routed by age, if the confidence suffices, or sent to review",
    ),
    Reason.LOW_CONFIDENCE: Meaning(
        "the calibrated confidence is below the label's threshold",
        "inspect the image, or lower the threshold in the policy and run 'dicom-router reroute'",
    ),
    Reason.VIEWS_DISAGREE: Meaning(
        "the image shows two views side by side (left_view_label, right_view_label), and each is "
        "confidently another label",
        "name the body part in 'dicom-router review', or split the image at its source",
    ),
    Reason.OUT_OF_DISTRIBUTION: Meaning(
        "the image is unlike those that the model was trained on",
        "inspect the image, or raise ood_threshold in the policy and run 'dicom-router reroute'",
    ),
    Reason.TOO_SMALL: Meaning(
        "the image has too few pixels to be classified",
        "inspect the image, or lower min_long_side in the policy and run 'dicom-router reroute'",
    ),
    Reason.REVIEWED: Meaning("a reviewer has named the body part", ""),
    Reason.UNREADABLE: Meaning(
        "a reviewer could not tell from the image which body part it shows",
        "leave it in review, or take the answer back in 'dicom-router review'",
    ),
    Reason.SOP_CLASS: Meaning(
        "the SOP Class is not that of a projection radiograph, or is a private one whose Modality is not "
        "radiographic",
        "extend radiographs.sop_classes in the policy if it should be",
    ),
    Reason.MODALITY: Meaning(
        "the object is a secondary capture, but no digitized radiograph, and its Modality is not "
        "radiographic",
        "extend radiographs.modalities in the policy if it should be",
    ),
    Reason.IMAGE_TYPE: Meaning(
        "the Image Type is that of a report or screen save",
        "change radiographs.excluded_image_types in the policy if it should be routed",
    ),
    Reason.NOT_RADIOGRAPH: Meaning("a reviewer has answered that it is no radiograph", ""),
    Reason.SAME_CONTENT: Meaning("the lake already has this content from another source", ""),
    Reason.EMPTY: Meaning("the object is empty", "send it again from its source"),
    Reason.TOO_LARGE: Meaning(
        "the object is larger than --max_object_bytes",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.NOT_DICOM: Meaning(
        "the object is not a DICOM file (PS3.10)", "remove it from the input, or repair it"
    ),
    Reason.UNREADABLE_ARCHIVE: Meaning(
        "the object is an archive that is damaged, is in another archive, inflates by more than "
        "--max_inflation, or uses a method that is not read; its members before the damage have rows",
        "unpack it, and route its files",
    ),
    Reason.ENCRYPTED_MEMBER: Meaning(
        "the member of a zip file is encrypted; its stored bytes are in quarantine",
        "unpack it with its password, and route its files",
    ),
    Reason.DAMAGED_MEMBER: Meaning(
        "the content of the member of an archive cannot be read or has another checksum; its stored "
        "bytes are in quarantine",
        "pack it again at its source",
    ),
    Reason.MEDIA_DIRECTORY: Meaning(
        "the object is a DICOMDIR, which lists objects", "route the files that it lists"
    ),
    Reason.UNREADABLE_HEADER: Meaning(
        "the data set cannot be parsed", "send it again from its source"
    ),
    Reason.TRUNCATED: Meaning(
        "the object ends before its data set does", "send it again from its source"
    ),
    Reason.INFLATES_TOO_FAR: Meaning(
        "the deflated data set exceeds --max_object_bytes, or it or the member of an archive grows by "
        "more than --max_inflation",
        "if it is genuine, raise the limit and route it again with --reprocess all",
    ),
    Reason.TOO_MANY_ITEMS: Meaning(
        "the object has more sequence items and fragments than --max_items",
        "check the sender; for a genuine object raise the limit and route it again with --reprocess all",
    ),
    Reason.MISSING_UID: Meaning(
        "Study, Series or SOP Instance UID is missing", "correct the header at its source"
    ),
    Reason.INVALID_UID: Meaning(
        "Study, Series or SOP Instance UID violates PS3.5 section 9.1",
        "correct the header at its source",
    ),
    Reason.NO_PIXEL_DATA: Meaning(
        "the radiograph has no Pixel Data", "send it again from its source"
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
        "the size of the codestream differs from Rows and Columns, or it has neither 1 nor 3 components",
        "correct the header at its source",
    ),
    Reason.TRANSFER_SYNTAX_MISMATCH: Meaning(
        "Pixel Data is encapsulated although the Transfer Syntax is a native one, or native although it "
        "is a compressed one",
        "correct the Transfer Syntax UID at its source; transfer_syntax_uid has the present one",
    ),
    Reason.UNSUPPORTED_SYNTAX: Meaning(
        "no installed codec reads the Transfer Syntax",
        "install a codec and route it again with --reprocess all, or transcode it at its source",
    ),
    Reason.UNDECODABLE_PIXELS: Meaning(
        "every codec for the Transfer Syntax failed", "send it again from its source"
    ),
    Reason.NESTED_TOO_DEEP: Meaning(
        "sequences are nested deeper than --max_nesting, or than the parser supports",
        "check the sender; for a genuine object raise the limit and route it again with --reprocess all",
    ),
    Reason.TOOK_TOO_LONG: Meaning(
        "parsing and decoding took longer than --max_object_seconds",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.TOO_MUCH_MEMORY: Meaning(
        "parsing and decoding needed more than --max_memory_bytes",
        "raise the limit and route it again with --reprocess all",
    ),
    Reason.CRASHED_DECODER: Meaning("a decoder crashed twice", "send it again from its source"),
    Reason.INFERENCE_FAILED: Meaning(
        "the model failed on this image only", "run 'dicom-router inspect' on it"
    ),
    Reason.INVALID_ENTRY: Meaning(
        "an entry of a manifest cannot be read", "correct the manifest, then run again"
    ),
    Reason.ARCHIVE_NOT_COPIED: Meaning(
        "members of an archive can only be copied, neither linked nor left in place",
        "route with --placement copy, or unpack it",
    ),
    Reason.DISAPPEARED: Meaning("the object disappeared before it was read", "run again"),
    Reason.PERMISSION_DENIED: Meaning(
        "the router has no permission to read or write it", "grant the permission, then run again"
    ),
    Reason.READ_FAILED: Meaning("reading the object failed", "check the storage, then run again"),
    Reason.CHANGED: Meaning(
        "the object changed while it was processed", "run again when its writer has finished"
    ),
    Reason.NO_SPACE: Meaning("the lake's storage is full", "free space, then run again"),
    Reason.WRITE_FAILED: Meaning(
        "the lake's storage refused a write", "check the storage, then run again"
    ),
    Reason.KILLED: Meaning(
        "a decoding process was killed from outside, possibly because memory ran out",
        "add memory or lower --fetch_threads, then run again",
    ),
    Reason.NAME_TAKEN: Meaning(
        "the lake has different content under the name of the object",
        "run 'dicom-router verify --deep', remove the damaged object, then run again",
    ),
    Reason.NO_ROW: Meaning(
        "the stream stopped before the object had a row",
        "look up its key in the logs of the workers, then start the stream again",
    ),
    Reason.OTHER_FILE_SYSTEM: Meaning(
        "a hard link cannot cross file systems", "route with --placement copy"
    ),
}


class ObjectError(Exception):
    """An error of one object; its message contains neither values nor the name of the object.

    Attributes:
        stage: The step that failed.
        reason: The reason.
        detail: Technical detail without values of the object, or "".
    """

    def __init__(self, stage: Stage, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ObjectError], tuple[Stage, Reason, str]]:
        return type(self), (self.stage, self.reason, self.detail)


class InvalidObject(ObjectError):
    """The object is invalid: it is quarantined and has a row."""


class ProcessingFailure(ObjectError):
    """Storage, memory or permissions failed: the object has no row, and the run is incomplete."""
