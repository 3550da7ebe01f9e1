"""Extraction of allow-listed header values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from tests.synthetic import dataset, to_bytes
from transforms.core.labels import ABDOMINAL, ADULT_CHEST, OTHERS, PEDIATRIC_CHEST, SPINE
from transforms.core.reasons import Reason
from transforms.imaging.header import Header, read_header
from transforms.imaging.header_label import agrees, header_label
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.radiograph_table import RadiographTable
from transforms.lake.schema import IndexRow


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
    assert {f.name for f in fields(Header)} - index == {"patient_id", "image_type"}


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
        ("", None, None),
        (None, None, None),
    ],
)
def test_header_label(term: str | None, age: float | None, label: str | None) -> None:
    assert header_label(term, age, 18) == label


def test_header_and_decision_agree_by_region() -> None:
    assert agrees(ADULT_CHEST, PEDIATRIC_CHEST) is True
    assert agrees(SPINE, ABDOMINAL) is False
    assert agrees(None, SPINE) is None


def test_radiograph_table() -> None:
    table = RadiographTable()
    dx = str(dataset().SOPClassUID)
    assert table.exclusion_reason(dx, "DX", ()) is None
    assert table.exclusion_reason(dx, None, ("ORIGINAL", "PRIMARY")) is None
    assert table.exclusion_reason(CTImageStorage, "CT", ()) is Reason.SOP_CLASS
    assert table.exclusion_reason(SecondaryCaptureImageStorage, "DX", ()) is None
    assert table.exclusion_reason(SecondaryCaptureImageStorage, "OT", ()) is Reason.MODALITY
    assert table.exclusion_reason(None, "CR", ()) is None
    assert (
        table.exclusion_reason(dx, "DX", ("DERIVED", "SECONDARY", "SCREEN SAVE"))
        is Reason.IMAGE_TYPE
    )
