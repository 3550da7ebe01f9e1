"""Extraction of allow-listed header values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._snomed_dict import mapping as snomed_mapping
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from tests.synthetic import dataset, to_bytes
from transforms.core.labels import (
    ABDOMINAL,
    ADULT_CHEST,
    DEFAULT_LABELS,
    HEADER_REGIONS,
    OTHERS,
    PEDIATRIC_CHEST,
    SPINE,
)
from transforms.core.reasons import Reason
from transforms.imaging.anatomic_region import agreed_region
from transforms.imaging.header import Header, read_header
from transforms.imaging.header_label import (
    claimed_region,
    described_region,
    header_label,
)
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.radiograph_table import RadiographTable
from transforms.imaging.region_words import REGION_WORDS, split_words
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import NO_COLUMNS


def header(**elements: Any) -> Header:
    return read_header(parse(to_bytes(dataset(**elements)), Limits()))


@pytest.mark.parametrize(
    "value", ["JOHN DOE IS 45 YEARS OLD", "a\nb", "<script>", "=cmd()", "\x1b[31m"]
)
@pytest.mark.filterwarnings("ignore")
def test_free_text_in_a_code_is_dropped(value: str) -> None:
    found = header(BodyPartExamined=value, ViewPosition=value, PatientSex=value)
    assert (found.body_part_examined, found.view_position, found.patient_sex) == (None, None, None)


def test_identifying_values_are_not_in_the_index() -> None:
    index = {f.name for f in fields(IndexRow)}
    assert {f.name for f in fields(Header)} - index == NO_COLUMNS


CHEST_TERMS = [
    "THORAX",
    "TORAX",
    "TÓRAX",
    "chest",
    "CHEST PA",
    "CHEST_PA",
    "PORT CHEST",
    "CHEST_2V",
    "胸部",
]
CHEST_TERMS += [
    "POUMON",
    "CHEST 2 VIEWS",
    "Chest, Lat.",
    "RX TORAX PA",
    "TÓRAX".encode().decode("latin-1"),
]
SPINE_TERMS = [
    "LSPINE",
    "L SPINE",
    "LUMBAR SPINE",
    "LUMBAR_SPINE",
    "LWS",
    "HWS",
    "BWS",
    "COLUMNA LUMBAR",
]
SPINE_TERMS += ["WIRBELSAEULE", "Wirbelsäule", "RACHIS", "C-SPINE LAT", "THORACIC SPINE", "腰椎"]
ABDOMEN_TERMS = ["ABD^KUB", "ABDOMEN_AP", "Abdomen", "ABDOMEN PELVIS", "ABDOMEN SUPINE", "KUB"]
OTHER_TERMS = [
    "KNEE_L",
    "PELVIS",
    "HAND_RIGHT",
    "KNIE",
    "HAND WRIST",
    "Fuß",
    "UPPER ARM",
    "LEFT HIP 2V",
]
NO_CLAIM = [
    "CHEST_TO_ABDOMEN",
    "RIB",
    "RIBS",
    "STERNUM",
    "THORACIC",
    "PA",
    "NOT A CHEST",
    "CHEST RIBS",
    "L",
]


@pytest.mark.parametrize(
    ("term", "age", "label"),
    [
        ("CHEST", None, ADULT_CHEST),
        ("Chest", 40.0, ADULT_CHEST),
        ("CHEST", 5.0, PEDIATRIC_CHEST),
        ("CHEST", 0.0, ADULT_CHEST),
        ("ABDOMEN", None, ABDOMINAL),
        ("L-SPINE", None, SPINE),
        ("C SPINE", None, SPINE),
        ("HAND", None, OTHERS),
        ("WHOLEBODY", None, None),
        *((term, None, ADULT_CHEST) for term in CHEST_TERMS),
        *((term, None, SPINE) for term in SPINE_TERMS),
        *((term, None, ABDOMINAL) for term in ABDOMEN_TERMS),
        *((term, None, OTHERS) for term in OTHER_TERMS),
        *((term, None, None) for term in NO_CLAIM),
        ("TORAX PA", 5.0, PEDIATRIC_CHEST),
        ("", None, None),
        (None, None, None),
    ],
)
def test_header_label(term: str | None, age: float | None, label: str | None) -> None:
    assert header_label(term, age, 18, DEFAULT_LABELS) == label


def coded(*items: tuple[str, str, str]) -> Sequence:
    sequence = Sequence()
    for value, scheme, meaning in items:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        sequence.append(item)
    return sequence


@pytest.mark.parametrize(
    ("body_part", "codes", "region"),
    [
        (None, [("51185008", "SCT", "Chest")], "CHEST"),
        (None, [("T-D3000", "SRT", "Chest")], "CHEST"),
        (None, [("816094009", "SCT", "")], "CHEST"),
        (None, [("T-11503", "SNM3", "Lumbar spine")], "SPINE"),
        (None, [("X1", "99LOCAL", "Lendenwirbelsäule")], "SPINE"),
        (None, [("X1", "99LOCAL", "room 5")], None),
        (None, [("T-D9200", "SRT", "Knee"), ("T-D9400", "SRT", "Lower leg")], "OTHER"),
        (None, [("T-D3000", "SRT", "Chest"), ("T-D4000", "SRT", "Abdomen")], None),
        ("CHEST", [("T-D3000", "SRT", "Chest")], "CHEST"),
        ("CHEST", [("T-D4000", "SRT", "Abdomen")], None),
        ("SKELETON", [("T-D4000", "SRT", "Abdomen")], "ABDOMEN"),
        ("CHEST", [], "CHEST"),
        (["CSPINE", "TSPINE"], [], "SPINE"),
        (["CHEST", "HAND"], [], None),
        (None, [], None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_claimed_region(
    body_part: str | None, codes: list[tuple[str, str, str]], region: str | None
) -> None:
    elements: dict[str, Any] = {
        "BodyPartExamined": body_part,
        "AnatomicRegionSequence": coded(*codes),
    }
    found = header(**elements)
    assert agreed_region(found.body_part_region, found.coded_region) == region


@pytest.mark.slow
def test_codes_of_regions_are_those_of_the_dictionary() -> None:
    """Of pydicom's copy of PS3.16 CID 4031, in SNOMED CT and SNOMED RT."""
    retired = {v: k for k, v in snomed_mapping["SRT"].items()}
    for keyword in codes.cid4031.dir():
        code = getattr(codes.cid4031, keyword)
        by_meaning = claimed_region([code.meaning.replace("bone", "").strip()])
        for value in (code.value, retired.get(code.value)):
            by_code = header(AnatomicRegionSequence=coded((str(value), "SCT", ""))).coded_region
            assert by_code in (by_meaning, None) or by_meaning is None, keyword


@given(
    st.text(max_size=20)
    | st.lists(st.sampled_from(CHEST_TERMS + NO_CLAIM), max_size=3).map("^".join)
)
def test_a_claim_is_a_region_or_none(text: str) -> None:
    assert claimed_region([text]) in {*HEADER_REGIONS, None}


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("W033 Chest PA & Lat, 2 views", "CHEST"),
        ("Thorax p.a. stehend", "CHEST"),
        ("Thorax de face", "CHEST"),
        ("ThoraxPA", "CHEST"),
        ("Rx de tórax portátil", "CHEST"),
        ("胸部正面", "CHEST"),
        ("Abdomen liegend, fraglich Ileus", "ABDOMEN"),
        ("ABDOMEN/PELVIS 1V", "ABDOMEN"),
        ("腹部立位", "ABDOMEN"),
        ("Brzuch przeglądowe", "ABDOMEN"),
        ("L-Spine lateral", "SPINE"),
        ("thoracic spine AP", "SPINE"),
        ("Kręgosłup L-S", "SPINE"),
        ("Позвоночник, поясничный отдел", "SPINE"),
        ("腰椎側面", "SPINE"),
        ("胸椎正側位", "SPINE"),
        ("Hand links dorsovolar", "OTHER"),
        ("XR HIP 2V RT", "OTHER"),
        ("膝関節", "OTHER"),
        ("Mobile C-arm, main view, head first", None),
        ("Chest and abdomen", None),
        ("Chest, ribs left", None),
        ("Skeletal survey: chest", None),
        ("Routine", None),
        ("John Doe 1950", None),
        ("1 2 3", None),
        ("", None),
    ],
)
def test_a_description_names_a_region(text: str, region: str | None) -> None:
    assert described_region(text) == region
    found = header(SpecificCharacterSet="ISO_IR 192", SeriesDescription=text, ProtocolName=text)
    assert found.series_description_region == found.protocol_name_region == region


@given(st.text(max_size=40))
@settings(max_examples=30)
def test_any_description_names_a_region_or_none(text: str) -> None:
    assert described_region(text) in {*HEADER_REGIONS, None}


def test_no_word_names_two_regions() -> None:
    regions = [
        {word for words in languages.values() for word in split_words(words)}
        for languages in REGION_WORDS.values()
    ]
    assert sum(map(len, regions)) == len(set().union(*regions))


def test_malformed_descriptions_claim_nothing() -> None:
    found = header(SeriesDescription=None, ProtocolName="CHEST\\HAND")
    assert (found.series_description_region, found.protocol_name_region) == (None, None)


def test_header_and_decision_agree_by_region() -> None:
    assert DEFAULT_LABELS.agree(ADULT_CHEST, PEDIATRIC_CHEST) is True
    assert DEFAULT_LABELS.agree(SPINE, ABDOMINAL) is False
    assert DEFAULT_LABELS.agree(None, SPINE) is None


def test_radiograph_table() -> None:
    table = RadiographTable()
    dx = str(dataset().SOPClassUID)
    assert table.exclusion_reason(dx, "DX", ()) is None
    assert table.exclusion_reason(dx, None, ("ORIGINAL", "PRIMARY")) is None
    assert table.exclusion_reason(CTImageStorage, "CT", ()) is Reason.SOP_CLASS
    assert table.exclusion_reason(SecondaryCaptureImageStorage, "DX", ()) is None
    assert table.exclusion_reason(SecondaryCaptureImageStorage, "OT", ()) is Reason.MODALITY
    assert table.exclusion_reason(None, "CR", ()) is None
    assert table.exclusion_reason("1.2.840.10008.5.1.1.29", "HC", ()) is Reason.SOP_CLASS
    assert (
        table.exclusion_reason(dx, "DX", ("DERIVED", "SECONDARY", "SCREEN SAVE"))
        is Reason.IMAGE_TYPE
    )


PRIVATE_CR = "1.2.392.200036.9125.1.1.2"
SECONDARY = SecondaryCaptureImageStorage


@pytest.mark.parametrize(
    ("sop_class", "modality", "conversion", "is_image", "reason"),
    [
        (PRIVATE_CR, "CR", None, True, None),
        ("1.2.3.4", "DX", None, True, None),
        (PRIVATE_CR, "CR", None, False, Reason.SOP_CLASS),
        (PRIVATE_CR, "MR", None, True, Reason.SOP_CLASS),
        (PRIVATE_CR, None, None, True, Reason.SOP_CLASS),
        (CTImageStorage, "CR", None, True, Reason.SOP_CLASS),
        *((SECONDARY, modality, None, True, None) for modality in ("CR", "DX", "DR", "XR", "FD")),
        *((SECONDARY, modality, "DF", True, None) for modality in ("OT", None)),
        *((SECONDARY, modality, "DF", True, Reason.MODALITY) for modality in ("CT", "XA", "US")),
        *(
            (SECONDARY, "OT", conversion, True, Reason.MODALITY)
            for conversion in (None, "WSD", "SI")
        ),
        (None, "OT", "DF", True, None),
        (None, None, None, True, Reason.MODALITY),
    ],
)
def test_private_classes_and_secondary_captures(
    sop_class: str | None,
    modality: str | None,
    conversion: str | None,
    is_image: bool,
    reason: Reason | None,
) -> None:
    table = RadiographTable()
    found = table.exclusion_reason(
        sop_class, modality, (), conversion_type=conversion, is_image=is_image
    )
    assert found is reason
