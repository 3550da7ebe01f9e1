"""De-identification: no trace of the source in any byte, pixels as they were, the profile as claimed."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data_store
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom._dicom_dict import DicomDictionary
from pydicom.config import disable_value_validation
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.synthetic import dataset, image, to_bytes
from transforms.imaging.confidentiality_profile import (
    DEVICE_IDENTITY,
    EDITION,
    PATIENT_CHARACTERISTICS,
    actions,
)
from transforms.imaging.deidentify import Deidentify
from transforms.imaging.limits import Limits
from transforms.imaging.object_transforms import (
    DerivedBytes,
    Refusal,
    RefusedObject,
    UnknownTransform,
    find_transform,
)
from transforms.imaging.pseudonyms import Pseudonyms
from transforms.imaging.uids import is_valid_uid

KEYED = Pseudonyms(b"a key of the research office")
ALL = {"retain": ["patient_characteristics", "device_identity"], "dates": "shift"}
SMALL = image(1, (72, 64))
CANARY = "CANARY"


def derived_from(
    data: bytes, options: Mapping[str, Any] | None = None, keyed: Pseudonyms = KEYED
) -> bytes:
    """The object that is derived from an object."""
    one = Deidentify()
    found = one.derive(memoryview(data), one.check(options or {}), keyed, Limits())
    return assembled(found, data)


def assembled(found: DerivedBytes, data: bytes) -> bytes:
    return found.head + data[found.start : found.start + found.length] + found.tail


def read(data: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(data))


def refusal_of(data: bytes, options: Mapping[str, Any] | None = None) -> Refusal:
    with pytest.raises(RefusedObject) as error:
        derived_from(data, options)
    return error.value.refusal


@disable_value_validation()
def full_of_canaries() -> Dataset:
    """An object with a canary in every attribute of the standard that can hold one, also nested."""
    ds = dataset(SMALL, BurnedInAnnotation="NO")
    fill(ds)
    item = Dataset()
    fill(item)
    inner = Dataset()
    inner.ReferencedImageSequence = [item]
    for keyword in (
        "ReferencedImageSequence",
        "ViewCodeSequence",
        "SharedFunctionalGroupsSequence",
    ):
        outer = Dataset()
        fill(outer)
        outer.AnatomicRegionSequence = [inner]
        setattr(ds, keyword, [outer])
    private = ds.private_block(0x0011, f"{CANARY} CREATOR", create=True)
    private.add_new(1, "LO", f"{CANARY} PRIVATE")
    private.add_new(2, "SQ", [item])
    ds.add_new(0x60000022, "LO", f"{CANARY} OVERLAY")
    ds.add_new(0x60003000, "OW", CANARY.encode() * 2)
    ds.add_new(0x50003000, "OW", CANARY.encode() * 2)
    ds.add_new(0x00091001, "UN", CANARY.encode())
    ds.add_new(0x00180099, "LO", f"{CANARY} UNKNOWN")  # in no dictionary
    ds.preamble = CANARY.encode().ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = CANARY
    ds.file_meta.PrivateInformationCreatorUID = UID("1.2.99.1")
    ds.file_meta.PrivateInformation = CANARY.encode()
    return ds


TEXT = {"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "CS", "DA", "DT", "TM", "AS"}
BYTES = {"OB", "OW", "OB or OW", "UN", "OF", "OD", "OL", "OV"}
UIDS = {f"1.2.777.{number}.4711.20300401": number for number in range(9)}
NEEDED = {"Manufacturer", "ManufacturerModelName", "RescaleType", "ModalityLUTType"}
"""Attributes outside table E.1-1, which keep printable texts."""


RETAINED = {*DEVICE_IDENTITY, *PATIENT_CHARACTERISTICS}
UNTOUCHED = {
    *("Rows", "Columns", "NumberOfFrames", "BurnedInAnnotation", "SOPClassUID"),
    "SpecificCharacterSet",
}


def fill(ds: Dataset) -> None:
    """Put a canary into every attribute that the data set does not have."""
    for number, (tag, (vr, _, _, _, keyword)) in enumerate(DicomDictionary.items()):
        group = tag >> 16
        if not keyword or tag in ds or group <= 2 or group >= 0x5000 or keyword in NEEDED:
            continue
        if keyword in UNTOUCHED:
            continue
        if keyword in RETAINED:
            continue
        if vr in TEXT:
            ds.add_new(
                tag, vr, "19630501" if keyword == "PatientBirthDate" else f"{CANARY} x{number}"
            )
        elif vr == "UI":
            ds.add_new(tag, vr, list(UIDS)[number % len(UIDS)])
        elif vr in BYTES:
            ds.add_new(tag, "OB" if vr == "OB or OW" else vr, CANARY.encode() * 4)


def traces(data: bytes) -> list[bytes]:
    """What of a source full of canaries is in an object."""
    wanted = [CANARY.encode(), b"SECRET", b"19630501", b"20300401", b"1.2.826.0.1.3680043.10.1473"]
    return [one for one in wanted if one in data]


@pytest.mark.parametrize("options", [{}, ALL, {"dates": "keep"}], ids=["strict", "all", "dates"])
def test_no_canary_is_anywhere(options: dict[str, Any]) -> None:
    data = to_bytes(full_of_canaries())
    assert len(traces(data)) == 5
    found = derived_from(data, options)
    assert traces(found) == []
    assert read(found).PixelData == SMALL.tobytes()


def test_no_canary_is_in_an_inflated_object() -> None:
    ds = full_of_canaries()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found = derived_from(to_bytes(ds))
    meta = read(found).file_meta
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    inflated = zlib.decompress(found[start:], -zlib.MAX_WBITS)
    assert traces(found) == traces(inflated) == []
    assert read(found).PixelData == SMALL.tobytes()


SYNTAXES = [
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
    *(DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLosslessSV1),
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_and_transfer_syntax_are_untouched(syntax: str) -> None:
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    ds = dataset(SMALL, syntax=ExplicitVRLittleEndian if is_deflated else syntax)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope = [2047.5, 10], [4096, 20], "1"
    data = to_bytes(ds)
    source, found = read(data), read(derived_from(data))
    assert found.file_meta.TransferSyntaxUID == syntax
    assert found["PixelData"].value == source["PixelData"].value
    assert found["PixelData"].VR == source["PixelData"].VR
    assert found.WindowCenter == source.WindowCenter
    if syntax != JPEGLosslessSV1:  # no decoder of pydicom's
        assert (found.pixel_array == source.pixel_array).all()
    assert derived_from(data) == derived_from(data)


def test_what_follows_the_pixels_is_removed() -> None:
    ds = dataset(SMALL, syntax=RLELossless)
    data = (
        to_bytes(ds) + bytes.fromhex("fcfffcff4f420000") + (8).to_bytes(4, "little") + b"CANARY.."
    )
    assert b"CANARY" not in derived_from(data)


def test_uids_are_consistent_and_keyed() -> None:
    ds = dataset(SMALL)
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    ds.ReferencedImageSequence = [item]
    data = to_bytes(ds)
    found, other = read(derived_from(data)), read(derived_from(data, keyed=Pseudonyms(b"k" * 16)))
    assert found.SOPClassUID == ds.SOPClassUID
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    (reference,) = found.ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == found.SOPInstanceUID != other.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == ds.SOPClassUID
    assert found.PatientID == found.PatientName != other.PatientID
    below = read(
        derived_from(data, {"uid_root": "1.2.826.0.1"}, Pseudonyms(b"k" * 16, "1.2.826.0.1"))
    )
    assert below.StudyInstanceUID.startswith("1.2.826.0.1.")


@given(uid=st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){1,4}", fullmatch=True))
@settings(max_examples=50)
def test_replaced_uids_are_valid(uid: str) -> None:
    for root in ("2.25", "1.2", "1." + "2" * 40):
        replaced = Pseudonyms(b"k" * 16, root).uid(uid)
        assert is_valid_uid(replaced)
        assert not any(len(one) > 1 and one[0] == "0" for one in replaced.split("."))


def test_what_was_done_is_stated() -> None:
    ds = dataset(SMALL, PatientAge="094Y", PatientSex="F", StudyDate="20260131", StudyTime="101500")
    ds.PatientBirthDate, ds.StationName, ds.AcquisitionDateTime = (
        "19310101",
        "XR 1",
        "20260131101500.5",
    )
    ds.BodyPartExamined, ds.ViewPosition, ds.Manufacturer = "CHEST", "PA", "ACME"
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = (
        "399348003",
        "SCT",
        "typed by hand",
    )
    local = Dataset()
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "1", "99LOCAL", "Mrs Smith"
    ds.ViewCodeSequence = [view, local]
    data = to_bytes(ds)

    strict = read(derived_from(data))
    assert [item.CodeValue for item in strict.DeidentificationMethodCodeSequence] == ["113100"]
    assert strict.PatientIdentityRemoved == "YES"
    assert EDITION in strict.DeidentificationMethod
    assert strict.LongitudinalTemporalInformationModified == "REMOVED"
    assert (strict.PatientSex, strict.StudyDate, strict.PatientBirthDate) == ("", "", "")
    assert "PatientAge" not in strict
    assert "StationName" not in strict
    assert (strict.BodyPartExamined, strict.ViewPosition, strict.Manufacturer) == (
        "CHEST",
        "PA",
        "ACME",
    )
    (kept,) = strict.ViewCodeSequence
    assert (kept.CodeValue, kept.CodeMeaning) == (
        "399348003",
        "Antero-posterior projection (qualifier value)",
    )

    every = read(derived_from(data, ALL))
    codes = {item.CodeValue for item in every.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113107", "113108", "113109"}
    assert (every.PatientAge, every.PatientSex, every.StationName) == ("090Y", "F", "XR 1")
    assert every.LongitudinalTemporalInformationModified == "MODIFIED"
    assert every.StudyDate < "20260131"
    assert every.AcquisitionDateTime == f"{every.StudyDate}101500.5"
    assert (every.StudyTime, every.PatientBirthDate) == ("101500", "")

    dated = read(derived_from(data, {"dates": "keep"}))
    assert (dated.StudyDate, dated.PatientBirthDate) == ("20260131", "")
    assert dated.LongitudinalTemporalInformationModified == "UNMODIFIED"


@pytest.mark.parametrize(
    "elements",
    [
        {"BurnedInAnnotation": "YES"},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ConversionType": "WSD"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"ImageComments": "overlay"},
    ],
    ids=["attribute", "image type", "conversion", "secondary capture", "embedded overlay"],
)
def test_text_in_pixels_is_refused_or_flagged(elements: dict[str, Any]) -> None:
    ds = dataset(SMALL, **elements)
    if "ImageComments" in elements:
        ds.add_new(0x60000010, "US", 72)
    data = to_bytes(ds)
    assert refusal_of(data) == Refusal.BURNED_IN
    one = Deidentify()
    found = one.derive(memoryview(data), one.check({"burned_in": "flag"}), KEYED, Limits())
    assert found.burned_in == ("yes" if "BurnedInAnnotation" in elements else "suspected")
    assert read(assembled(found, data)).get("BurnedInAnnotation") in (None, "YES")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_uid_of_the_source_in_what_is_kept_is_refused(syntax: str) -> None:
    ds = dataset(SMALL)
    ds.Manufacturer = f"ACME {ds.StudyInstanceUID}"
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    assert refusal_of(to_bytes(ds)) == Refusal.IDENTITY_REMAINS


def test_an_identity_in_what_is_kept_is_refused() -> None:
    assert (
        refusal_of(to_bytes(dataset(SMALL, Manufacturer="Dr Secret"))) == Refusal.IDENTITY_REMAINS
    )
    ds = dataset(SMALL, syntax=RLELossless)
    ds.PixelData = encapsulate([b"JPEG comment: SECRET".ljust(64, b"\0")])
    assert refusal_of(to_bytes(ds)) == Refusal.IDENTITY_REMAINS
    assert refusal_of(b"not DICOM") == Refusal.UNREADABLE
    assert refusal_of(to_bytes(dataset(SMALL))[:-9]) == Refusal.UNREADABLE
    assert refusal_of(to_bytes(dataset(SMALL, SOPInstanceUID=None))) == Refusal.UNREADABLE


def test_the_table_is_that_of_the_standard() -> None:
    """The library's table has what PS3.15 table E.1-1 names; some rows that anyone can look up."""
    expected = {
        **dict.fromkeys(("PatientName", "StudyDate", "AccessionNumber", "PatientID"), "Z"),
        **dict.fromkeys(("SOPInstanceUID", "FrameOfReferenceUID", "ReferencedSOPInstanceUID"), "U"),
        **dict.fromkeys(("PatientAddress", "PatientAge", "StudyDescription", "ImageComments"), "X"),
        "SourceImageSequence": "X/Z/U*",
    }
    assert {name: str(actions()[keyword_dict[name]]) for name in expected} == expected
    assert len(actions()) == 652


@pytest.mark.parametrize(
    "options",
    [{"retain": ["names"]}, {"dates": "no"}, {"burned_in": 1}, {"uid_root": "x"}, {"keep": 1}],
    ids=["retain", "dates", "burned in", "root", "unknown"],
)
def test_invalid_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Deidentify().check(options)


def test_an_unknown_transform_is_named() -> None:
    with pytest.raises(UnknownTransform, match="'blur'; known: deidentify"):
        find_transform("blur")


def test_keys_are_not_disclosed() -> None:
    assert "secret" not in repr(Pseudonyms(b"secret key of the lake"))
    assert KEYED.key_id != hashlib.sha256(KEYED.key).hexdigest()[:12]


RADIOGRAPHS = ("RG1_J2KR.dcm", "RG3_UNCI.dcm")


def errors_of(file: Path, data: bytes) -> set[str]:
    """The errors that dciodvfy finds in an object."""
    file.write_bytes(data)
    done = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True)
    found = (done.stdout + done.stderr).splitlines()
    return {line for line in found if line.startswith("Error")}


@pytest.mark.parametrize("name", RADIOGRAPHS)
def test_a_radiograph_has_no_new_errors(tmp_path: Path, name: str) -> None:
    data = (Path(data_store.__file__).parent / "data" / name).read_bytes()
    source, found = read(data), derived_from(data, ALL)
    for keyword in ("PatientName", "PatientID", "SOPInstanceUID", "StudyInstanceUID"):
        assert str(source[keyword].value).encode() not in found
    assert read(found).PixelData == source.PixelData
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (make senders)")
    file = tmp_path / "object.dcm"
    assert errors_of(file, found) <= errors_of(file, data)
