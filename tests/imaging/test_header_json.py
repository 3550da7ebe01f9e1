"""The header as JSON has allow-listed attributes with valid values, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from tests.synthetic import dataset, image, to_bytes
from transforms.imaging.header_attributes import (
    ADDABLE,
    ATTRIBUTES,
    HASHED,
    allowed_tags,
    attribute_problems,
    tag_of,
)
from transforms.imaging.header_json import MAX_JSON, MAX_VALUES, clean, read_json
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse

IDENTIFYING = {
    group << 16 | element
    for name, tags in vars(dicomfields_2026c).items()
    if name.endswith("_TAGS")
    for group, element, *mask in tags
    if not mask
}
"""Attributes of PS3.15 table E.1-1, edition 2026c."""
SECRET = "SECRET^NAME"


def header_of(ds: Dataset, *added: str, key: bool = True) -> dict[str, Any]:
    allowed = allowed_tags(frozenset(added))
    text = read_json(parse(to_bytes(ds), Limits()).dataset, allowed)
    assert text is not None
    hashed = (lambda value: f"hash of {len(value)}") if key else None
    found: dict[str, Any] = json.loads(clean(text, allowed, hashed))
    return found


def small(**elements: Any) -> Dataset:
    return dataset(image(0, (32, 24)), **elements)


def test_no_attribute_that_identifies_somebody_is_in_the_table() -> None:
    assert len(IDENTIFYING) > 500
    tags = allowed_tags()
    assert not tags & IDENTIFYING
    assert {dictionary_VR(tag) for tag in tags} <= {*ADDABLE, "SQ", "US or SS"}
    texts = {tag for tag in tags if dictionary_VR(tag) in ("LO", "SH")}
    names = (
        "Manufacturer ManufacturerModelName CodeValue CodingSchemeDesignator CodingSchemeVersion"
    )
    assert texts == {tag_of(name) for name in (*names.split(), "RescaleType")}


def test_values_are_as_in_the_json_model() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "51185008", "SCT", SECRET
    found = header_of(
        small(KVP="81.5", SeriesNumber="3", ImageType=["ORIGINAL", "PRIMARY"],
              PixelSpacing=["0.1", "0.2"], AnatomicRegionSequence=[code], ExposureIndex="400")
    )  # fmt: skip
    assert found["00180060"] == {"vr": "DS", "Value": [81.5]}
    assert found["00200011"] == {"vr": "IS", "Value": [3]}
    assert found["00080008"] == {"vr": "CS", "Value": ["ORIGINAL", "PRIMARY"]}
    assert found["00280030"] == {"vr": "DS", "Value": [0.1, 0.2]}
    assert found["00280010"] == {"vr": "US", "Value": [32]}
    region = {"00080100": {"vr": "SH", "Value": ["51185008"]}}
    scheme = {"00080102": {"vr": "SH", "Value": ["SCT"]}}
    assert found["00082218"] == {"vr": "SQ", "Value": [{**region, **scheme}]}
    read = Dataset.from_json(found)
    assert (read.KVP, read.Rows, read.Modality) == (81.5, 32, "DX")
    assert read.AnatomicRegionSequence[0].CodeValue == "51185008"


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientBirthDate": "19630405", "PatientAddress": SECRET, "ImageComments": SECRET},
        {"BodyPartExamined": "Mrs Secret^Name"},
        {"BodyPartExamined": ["CHEST", "secret^name"]},
        {"Manufacturer": "A\x1b" + SECRET},
        {"Manufacturer": "x" * 65 + SECRET},
        {"StudyDescription": SECRET, "SeriesDescription": SECRET, "ProtocolName": SECRET},
        {"RescaleType": "for Mrs SECRET^NAME"},
        {"SOPClassUID": SECRET},
    ],
)
def test_what_a_person_typed_is_left_out(elements: dict[str, Any]) -> None:
    text = json.dumps(header_of(small(**elements))).lower()
    assert "secret" not in text and "19630405" not in text


def test_private_attributes_and_pixels_are_left_out() -> None:
    ds = small()
    ds.private_block(0x0011, SECRET, create=True).add_new(1, "LO", SECRET)
    found = header_of(ds)
    assert SECRET not in json.dumps(found)
    assert {int(tag, 16) for tag in found} <= allowed_tags()
    assert "7FE00010" not in found


def test_a_policy_adds_attributes_and_identifiers_are_hashed() -> None:
    ds = small(StudyDate="20260102", AccessionNumber="A7", StationName="ROOM", StudyTime="1010")
    added = ("StudyDate", "AccessionNumber", "StationName")
    found = header_of(ds, *added)
    assert found["00080020"] == {"vr": "DA", "Value": ["20260102"]}
    assert found["00080050"] == {"vr": "SH", "Value": ["hash of 2"]}
    assert "00080030" not in found
    without = header_of(ds, *added, key=False)
    assert "00080020" in without and "00080050" not in without and "00081010" not in without


def test_attributes_that_cannot_be_added_are_named() -> None:
    problems = attribute_problems(["PatientName", "ImageComments", "Nothing", "StudyDate", "KVP"])
    assert [problem.split()[0] for problem in problems] == [
        "PatientName",
        "ImageComments",
        "'Nothing'",
    ]
    assert not attribute_problems(HASHED)
    assert not [name for names in ATTRIBUTES.values() for name in names.split() if name in HASHED]


@pytest.mark.parametrize(
    "element",
    [
        {"00100010": {"vr": "PN", "Value": [{"Alphabetic": SECRET}]}},
        {"00080060": {"vr": "LT", "Value": [SECRET]}},
        {"00080060": {"vr": "CS", "Value": [SECRET]}},
        {"00080060": {"vr": "CS", "Value": {"a": SECRET}}},
        {"00080060": {"vr": "CS", "Value": [["DX"]]}},
        {"00180060": {"vr": "DS", "Value": ["81"]}},
        {"00180060": {"vr": "DS", "Value": [True]}},
        {"00280030": {"vr": "DS", "Value": [1.5] * (MAX_VALUES + 1)}},
        {"00082218": {"vr": "SQ", "Value": [SECRET]}},
        {" 180060": {"vr": "DS", "Value": [1.5]}, "0x180060": {"vr": "DS", "Value": [1.5]}},
        {SECRET: {"vr": "CS", "Value": ["DX"]}},
        {"00080060": SECRET},
    ],
)
def test_an_answer_that_no_object_gives_is_left_out(element: dict[str, Any]) -> None:
    assert clean(json.dumps(element), allowed_tags(), None) == "{}"


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "x" * (MAX_JSON + 1), "nan"])
def test_what_is_not_a_header_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        clean(text, allowed_tags(), None)
