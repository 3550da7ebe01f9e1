"""An answer of a child is accepted only if `describe` could have given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.graphs import config_of
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import QUARANTINE_REASONS, Reason
from transforms.sandbox.describe import FIELDS, describe, parse_description
from transforms.sandbox.examine import ExamineOptions
from transforms.sandbox.protocol import decode_value, encode_value

OPTIONS = ExamineOptions.from_config(config_of()).describing


@pytest.fixture
def answer(tmp_path: Path) -> list[Any]:
    """Return what `describe` answers for an image, as mutable lists."""
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_bytes(image(), PatientID="7", Manufacturer="Maker", PatientAge="045Y"))
    with path.open("rb") as file:
        header, *rest = describe(file.fileno(), OPTIONS)
    return [list(header), *rest]


def parse(answer: Any) -> Any:
    return parse_description(decode_value(encode_value(answer)), OPTIONS)


def test_an_answer_of_describe_is_accepted(answer: list[Any]) -> None:
    description = parse(answer)
    assert description.header.patient_id == "7"
    assert description.header.patient_age_years == 45
    assert description.image.shape == (1, OPTIONS.input_size, OPTIONS.input_size)
    assert description.image.flags.writeable
    assert (description.stage, description.reason) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sop_instance_uid", "../../etc/passwd"),
        ("sop_instance_uid", "1.2/3"),
        ("sop_instance_uid", "1." * 40 + "1"),
        ("sop_instance_uid", None),
        ("study_instance_uid", b"1.2.3"),
        ("series_instance_uid", 1),
        ("sop_class_uid", "<script>"),
        ("modality", "dx"),
        ("modality", "X" * 17),
        ("body_part_examined", "CHEST\n"),
        ("laterality", ["L"]),
        ("patient_age_years", float("nan")),
        ("patient_age_years", float("inf")),
        ("patient_age_years", 45),
        ("patient_id", "\x1b[2J"),
        ("patient_id", "x" * 100_000),
        ("manufacturer", "x" * 65),
        ("manufacturer", "a\nb"),
        ("manufacturer", ""),
        ("rows", -1),
        ("rows", 1 << 31),
        ("rows", 1 << 63),
        ("rows", True),
        ("columns", "512"),
        ("number_of_frames", 1.0),
    ],
)
def test_other_header_values_are_refused(answer: list[Any], field: str, value: Any) -> None:
    answer[0][FIELDS.index(field)] = value
    with pytest.raises(ValueError, match=field):
        parse(answer)


@pytest.mark.parametrize(
    "image",
    [None, "", b"", b"\0", "\0" * OPTIONS.input_size**2, bytes(2 * OPTIONS.input_size**2), 1, [0]],
)
def test_other_images_are_refused(answer: list[Any], image: Any) -> None:
    answer[1] = image
    with pytest.raises(ValueError, match="invalid answer"):
        parse(answer)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("decode", None),
        (None, "truncated"),
        ("decode", "no such reason"),
        ("no such stage", "truncated"),
        ("decode", ["truncated"]),
        (1, 2),
        *(("decode", str(reason)) for reason in Reason if reason not in QUARANTINE_REASONS),
    ],
)
def test_other_outcomes_are_refused(answer: list[Any], stage: Any, reason: Any) -> None:
    answer[0][FIELDS.index("study_instance_uid")] = None  # may be missing in quarantine only
    answer[1:4] = None, stage, reason
    with pytest.raises(ValueError):
        parse(answer)


def test_an_excluded_or_quarantined_object_has_no_image(answer: list[Any]) -> None:
    for reason in ("modality", "truncated"):
        answer[2:4] = "header", reason
        with pytest.raises(ValueError, match="outcome"):
            parse(answer)
    answer[1] = None
    assert parse(answer).reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1,
        b"",
        {},
        [],
        [[], b"", None, None, False],
        [None] * 5,
        [[None] * 99, None, "a", "b", 1],
    ],
)
def test_other_shapes_are_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="invalid answer"):
        parse(answer)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 10_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc7\x08\xff" + bytes(8),
        b"\x81\x91\x01\x01",
        b"\x01\x01",
        b"\xa1\xff",
    ],
)
def test_data_that_is_no_value_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an answer"):
        decode_value(data)


def test_quarantine_reasons_are_those_between_empty_and_inference_failed() -> None:
    assert Reason.EMPTY in QUARANTINE_REASONS and Reason.INFERENCE_FAILED in QUARANTINE_REASONS
    assert not {Reason.KILLED, Reason.NO_SPACE, Reason.CONFIDENT} & QUARANTINE_REASONS
