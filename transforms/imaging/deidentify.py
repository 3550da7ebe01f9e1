"""De-identify a radiograph: the built-in transform `deidentify`.

Standard: PS3.15 Annex E, Basic Application Level Confidentiality Profile; see
`imaging.confidentiality_profile`. Pixel data is not changed, and text in pixels is not removed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import pydicom.config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from transforms.core.reasons import InvalidObject
from transforms.imaging.burned_in import burned_in
from transforms.imaging.clean_dataset import DATES, KEEP, REMOVE, SHIFT, Cleaner
from transforms.imaging.confidentiality_profile import (
    ALWAYS_PRESENT,
    EDITION,
    MODULE,
)
from transforms.imaging.limits import Limits
from transforms.imaging.object_transforms import (
    BurnedIn,
    DerivedBytes,
    Refusal,
    RefusedObject,
)
from transforms.imaging.part10 import PIXEL_DATA, ParsedObject, PixelElement, parse
from transforms.imaging.pseudonyms import UUID_ROOT, Pseudonyms, uid_root_problem
from transforms.imaging.unknown_vr import LONG_VRS, UNDEFINED_LENGTH
from transforms.storage.extras import how_to_install, is_installed

CHARACTERISTICS, DEVICE = "patient_characteristics", "device_identity"
RETAINABLE: Final = (CHARACTERISTICS, DEVICE)
REFUSE, FLAG = "refuse", "flag"
DEFAULTS: Final[dict[str, Any]] = {
    "retain": [],
    "dates": REMOVE,
    "burned_in": REFUSE,
    "uid_root": UUID_ROOT,
}
METHOD_CODES: Final = {
    CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    DEVICE: ("113109", "Retain Device Identity Option"),
    KEEP: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    SHIFT: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
}
"""Codes of CID 7050 (PS3.16) for options of the profile."""
PROFILE: Final = ("113100", "Basic Application Confidentiality Profile")
TEMPORAL: Final = {REMOVE: "REMOVED", SHIFT: "MODIFIED", KEEP: "UNMODIFIED"}
"""Values of Longitudinal Temporal Information Modified (0028,0303), PS3.3 C.12.1."""
MIN_NAME, MIN_NAME_IN_PIXELS = 4, 6
"""Shortest name or identifier that is searched for: in texts, and in encapsulated pixel data."""
MIN_UID: Final = 12
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
"""Tags in encapsulated pixel data, which is always little-endian (PS3.5 A.4)."""


class Deidentify:
    """The transform."""

    name = "deidentify"
    version = f"1 (PS3.15 {EDITION})"

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options.

        Raises:
            ValueError: one is unknown or invalid.
        """
        if unknown := sorted(options.keys() - DEFAULTS.keys()):
            raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(DEFAULTS)}")
        found = {**DEFAULTS, **{name: one for name, one in options.items() if one is not None}}
        if not isinstance(found["retain"], list) or not set(found["retain"]) <= set(RETAINABLE):
            raise ValueError(f"retain: must be a list of {', '.join(RETAINABLE)}")
        if found["dates"] not in DATES:
            raise ValueError(f"dates: must be {', '.join(DATES)}")
        if found["burned_in"] not in (REFUSE, FLAG):
            raise ValueError(f"burned_in: must be {REFUSE} or {FLAG}")
        if not isinstance(found["uid_root"], str):
            raise ValueError("uid_root: must be text; put it in quotes")
        if why := uid_root_problem(found["uid_root"]):
            raise ValueError(f"uid_root: {why}")
        return {**found, "retain": sorted(found["retain"])}

    def missing(self) -> str | None:
        """Return how to install dicom-anonymizer, or None if it is installed."""
        return None if is_installed(MODULE) else how_to_install("deidentify")

    def derive(
        self, data: memoryview, options: Mapping[str, Any], pseudonyms: Pseudonyms, limits: Limits
    ) -> DerivedBytes:
        """Return the de-identified object. Deterministic.

        Raises:
            RefusedObject: it cannot be parsed, or may still identify the patient.
        """
        try:
            parsed = parse(data, limits)
        except InvalidObject as error:
            raise RefusedObject(Refusal.UNREADABLE) from error
        if not all(name in parsed.dataset for name in ("SOPClassUID", "SOPInstanceUID")):
            raise RefusedObject(Refusal.UNREADABLE)
        if parsed.pixels is None or parsed.pixels.tag != PIXEL_DATA:
            raise RefusedObject(Refusal.NO_PIXEL_DATA)
        if "PALETTE" in str(parsed.dataset.get("PhotometricInterpretation", "")):
            raise RefusedObject(Refusal.UNSUPPORTED_ENCODING)  # a table of colors may hide anything
        found = burned_in(parsed.dataset)
        if options["burned_in"] == REFUSE and found in (BurnedIn.YES, BurnedIn.SUSPECTED):
            raise RefusedObject(Refusal.BURNED_IN)
        cleaner = Cleaner(
            pseudonyms,
            dates=options["dates"],
            retain_characteristics=CHARACTERISTICS in options["retain"],
            retain_device=DEVICE in options["retain"],
        )
        dataset = cleaner.clean(parsed.dataset)
        value = _pixel_value(parsed.pixels)
        _require_anonymous(cleaner, dataset, value if parsed.pixels.encapsulated else None)
        _complete(dataset, cleaner, options)
        meta, encoded = _encoded_meta(dataset, parsed), _encoded(dataset, parsed)
        written = meta + encoded
        if any(uid.encode() in written for uid in cleaner.uids if len(uid) >= MIN_UID):
            raise RefusedObject(Refusal.IDENTITY_REMAINS)
        return _assemble(meta, encoded, parsed, value, found)


def _require_anonymous(cleaner: Cleaner, dataset: Dataset, encapsulated: memoryview | None) -> None:
    """Raise `RefusedObject` if an identity of the source is in a kept text, or in a codestream."""
    names = {name for name in cleaner.identities if len(name) >= MIN_NAME}
    texts = [text.upper() for text in cleaner.kept_texts]
    if any(name.upper() in text for name in names for text in texts):
        raise RefusedObject(Refusal.IDENTITY_REMAINS)
    if encapsulated is not None:
        content = bytes(encapsulated)
        wanted = {name.encode("utf-8") for name in names if len(name) >= MIN_NAME_IN_PIXELS}
        wanted |= {uid.encode() for uid in cleaner.uids if len(uid) >= MIN_UID}
        if any(one in content for one in wanted):
            raise RefusedObject(Refusal.IDENTITY_REMAINS)


def _complete(dataset: Dataset, cleaner: Cleaner, options: Mapping[str, Any]) -> None:
    """Add what every image must have, and what was done to it (PS3.15 E.1.1, PS3.3 C.12.1)."""
    for keyword in ALWAYS_PRESENT:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if cleaner.patient_id:
        dataset.PatientID = dataset.PatientName = cleaner.patient_pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"DICOM Imaging Router, PS3.15 Annex E {EDITION}"
    codes = [PROFILE, *(METHOD_CODES[one] for one in options["retain"])]
    if options["dates"] in METHOD_CODES:
        codes.append(METHOD_CODES[options["dates"]])
    dataset.DeidentificationMethodCodeSequence = [_code_item(*code) for code in codes]
    dataset.LongitudinalTemporalInformationModified = TEMPORAL[options["dates"]]


def _code_item(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _encoded_meta(dataset: Dataset, parsed: ParsedObject) -> bytes:
    """Return preamble and file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(parsed.transfer_syntax_uid)
    file = DicomBytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, meta, enforce_standard=True)
    return bytes(file.getvalue())


def _encoded(dataset: Dataset, parsed: ParsedObject) -> bytes:
    """Return the data set as it precedes the pixel data, not deflated."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = parsed.transfer_syntax_uid == ImplicitVRLittleEndian
    stream.is_little_endian = parsed.transfer_syntax_uid != ExplicitVRBigEndian
    mode = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        write_dataset(stream, dataset)
    finally:
        pydicom.config.settings.writing_validation_mode = mode
    return bytes(stream.getvalue())


def _assemble(
    meta: bytes, encoded: bytes, parsed: ParsedObject, value: memoryview, found: BurnedIn
) -> DerivedBytes:
    assert parsed.pixels is not None
    element = _element_header(parsed.pixels, parsed.transfer_syntax_uid)
    if parsed.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        parts = [deflater.compress(one) for one in (encoded, element, value)]
        deflated = b"".join((*parts, deflater.flush()))
        return DerivedBytes(meta + deflated + b"\0" * (len(deflated) % 2), burned_in=found)
    tail = DELIMITER + bytes(4) if parsed.pixels.encapsulated else b""
    return DerivedBytes(meta + encoded + element, parsed.pixels.offset, len(value), tail, found)


def _element_header(pixels: PixelElement, syntax: str) -> bytes:
    """Return tag, VR and length of the pixel data element."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    length = UNDEFINED_LENGTH if pixels.encapsulated else pixels.length
    tag = struct.pack(f"{order}HH", pixels.tag >> 16, pixels.tag & 0xFFFF)
    if syntax == ImplicitVRLittleEndian:
        return tag + struct.pack("<L", length)
    vr = pixels.vr.encode()
    if vr not in LONG_VRS:
        raise RefusedObject(Refusal.UNSUPPORTED_ENCODING)
    return tag + vr + b"\0\0" + struct.pack(f"{order}L", length)


def _pixel_value(pixels: PixelElement) -> memoryview:
    """Return the value of the pixel data; if encapsulated, its items without what follows them.

    Raises:
        RefusedObject: the items of encapsulated pixel data are malformed.
    """
    value = pixels.value
    if not pixels.encapsulated:
        return value
    position = 0
    while bytes(value[position : position + 4]) == ITEM:
        if position + 8 > len(value):
            raise RefusedObject(Refusal.UNSUPPORTED_ENCODING)
        (length,) = struct.unpack_from("<L", value, position + 4)
        position += 8 + length
        if position > len(value):
            raise RefusedObject(Refusal.UNSUPPORTED_ENCODING)
    if position < len(value) and bytes(value[position : position + 4]) != DELIMITER:
        raise RefusedObject(Refusal.UNSUPPORTED_ENCODING)
    return value[:position]
