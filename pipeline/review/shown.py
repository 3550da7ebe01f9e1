"""What a reviewer is shown about an image: no identity, and every value as plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID

from transforms.core.labels import (
    ABDOMINAL,
    ADULT_CHEST,
    CHESTS,
    LABELS,
    OTHERS,
    PEDIATRIC_CHEST,
    SPINE,
)
from transforms.core.reasons import MEANINGS, Reason, Status
from transforms.lake.labels import NOT_RADIOGRAPH, UNREADABLE
from transforms.lake.schema import IndexRow


@dataclass(frozen=True)
class Choice:
    """An answer that a reviewer can give.

    Attributes:
        answer: as in `transforms.lake.labels.ANSWERS`.
        key: the key that gives it.
        title: its name for people.
        hint: what belongs to it, or "".
    """

    answer: str
    key: str
    title: str
    hint: str = ""


CHOICES: Final = (
    Choice(ABDOMINAL, "1", "Abdomen"),
    Choice(ADULT_CHEST, "2", "Chest, adult"),
    Choice(PEDIATRIC_CHEST, "3", "Chest, child"),
    Choice(SPINE, "4", "Spine"),
    Choice(OTHERS, "5", "Other body part", "limbs, pelvis, skull"),
    Choice(NOT_RADIOGRAPH, "6", "Not a radiograph"),
    Choice(UNREADABLE, "7", "Cannot tell"),
)
TITLE_OF: Final = {choice.answer: choice.title for choice in CHOICES}


@dataclass(frozen=True)
class Bar:
    """A choice with its calibrated probability in percent, or None if no model classified the image."""

    choice: Choice
    percent: float | None
    is_predicted: bool


def bars(row: IndexRow) -> list[Bar]:
    """Return the choices, with the probabilities of the model."""
    found = []
    for choice in CHOICES:
        value = getattr(row, f"prob_{choice.answer}") if choice.answer in LABELS else None
        percent = None if value is None else min(max(100 * value, 0.0), 100.0)
        found.append(Bar(choice, percent, choice.answer == row.predicted_label))
    return found


def explanation(row: IndexRow) -> str:
    """Return in plain words why the image is where it is."""
    reason = str(row.reason)
    text = MEANINGS[Reason(reason)].text if reason in set(Reason) else reason
    if reason == Reason.OUT_OF_DISTRIBUTION:
        text += ", so the percentages may be unreliable"
    if row.status == Status.REVIEW:
        return f"In review: {text}."
    return f"Routed to {TITLE_OF.get(str(row.destination), row.destination)}: {text}."


def header_claim(row: IndexRow) -> str:
    """Return what the header says about the body part, in plain words.

    Adult and pediatric chest are one region, as a chest without an age is labelled `adult_chest`.
    """
    if row.header_label is None:
        return "The header names no body part that the router knows."
    is_coded_only = row.body_part_region is None and row.coded_region is not None
    value = None if is_coded_only else row.body_part_examined
    verdict = {
        True: "names the same region as the model",
        False: "names another region than the model",
        None: "names",
    }[row.header_agrees]
    title = (
        "Chest" if row.header_label in CHESTS else TITLE_OF.get(row.header_label, row.header_label)
    )
    return f"The header {f'({value}) ' if value else ''}{verdict}: {title}."


def facts(row: IndexRow) -> list[tuple[str, str]]:
    """Return names and values of header facts that do not identify anybody; absent ones are left out."""
    age = row.patient_age_years
    size = f"{row.columns} × {row.rows}" if row.columns and row.rows else None
    syntax = row.transfer_syntax_uid
    frames = row.number_of_frames
    values: list[tuple[str, Any]] = [
        ("Modality", row.modality),
        ("Body part examined", row.body_part_examined),
        ("View position", row.view_position),
        ("Laterality", row.laterality),
        ("Age", None if age is None else _age(age)),
        ("Sex", row.patient_sex),
        ("Manufacturer", row.manufacturer),
        ("Model", row.manufacturer_model_name),
        ("Size", size and f"{size} pixels"),
        ("Frames", frames if frames and frames > 1 else None),
        ("Bits stored", row.bits_stored),
        ("Photometric", row.photometric_interpretation),
        ("Encoding", None if syntax is None else UID(syntax).name),
        ("Unlike training", None if row.ood_score is None else f"{row.ood_score:.1f} (OOD score)"),
        ("Object key", row.object_key),
    ]
    return [(name, str(value)) for name, value in values if value is not None]


def _age(years: float) -> str:
    if years < 2:
        return f"{12 * years:.0f} months"
    return f"{years:.0f} years"
