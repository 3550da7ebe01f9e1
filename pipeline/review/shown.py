"""What a reviewer is shown about an image: no identity, and every value as plain text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID

from transforms.core.labels import (
    ABDOMINAL,
    ADULT_CHEST,
    CHESTS,
    DEFAULT_LABELS,
    OTHERS,
    PEDIATRIC_CHEST,
    LabelSet,
)
from transforms.core.reasons import MEANINGS, Reason, Status
from transforms.lake.labels import NOT_RADIOGRAPH, UNREADABLE, answers_of
from transforms.lake.probabilities import stored_probabilities
from transforms.lake.schema import IndexRow
from transforms.lake.view_columns import views_of


@dataclass(frozen=True)
class Choice:
    """An answer that a reviewer can give.

    Attributes:
        answer: as of `transforms.lake.labels.answers_of`.
        key: the key that gives it, or "".
        title: its name for people.
        hint: what belongs to it, or "".
    """

    answer: str
    key: str
    title: str
    hint: str = ""


KEYS: Final = "123456789bcdeghjklmnopqtvwxy"
"""Keys of answers; other letters are those of tools. Further answers have none."""
_TITLES: Final = {
    ABDOMINAL: "Abdomen",
    ADULT_CHEST: "Chest, adult",
    PEDIATRIC_CHEST: "Chest, child",
    OTHERS: "Other body part",
    NOT_RADIOGRAPH: "Not a radiograph",
    UNREADABLE: "Cannot tell",
}
_HINTS: Final = {OTHERS: "limbs, pelvis, skull"}
"""What belongs to a label of the default set."""


def choices_of(labels: LabelSet) -> list[Choice]:
    """Return the answers that a reviewer can give about the images of a lake.

    Args:
        labels: of the lake.
    """
    hints = _HINTS if labels == DEFAULT_LABELS else {}
    return [
        Choice(answer, key, title_of(answer), hints.get(answer, ""))
        for answer, key in itertools.zip_longest(answers_of(labels), KEYS, fillvalue="")
        if answer
    ]


def title_of(answer: str) -> str:
    """Return the name of an answer for people."""
    return _TITLES.get(answer, answer.replace("_", " ").capitalize())


@dataclass(frozen=True)
class Bar:
    """A choice with its calibrated probability in percent, or None if no model classified the image."""

    choice: Choice
    percent: float | None
    is_predicted: bool


def bars(row: IndexRow, choices: Sequence[Choice]) -> list[Bar]:
    """Return the choices, with the probabilities of the model."""
    probabilities = stored_probabilities(row)
    found = []
    for choice in choices:
        value = probabilities.get(choice.answer)
        percent = None if value is None else min(max(100 * value, 0.0), 100.0)
        found.append(Bar(choice, percent, choice.answer == row.predicted_label))
    return found


def explanation(row: IndexRow) -> str:
    """Return in plain words why the image is where it is."""
    reason = str(row.reason)
    text = MEANINGS[Reason(reason)].text if reason in set(Reason) else reason
    views = views_of(row)
    if reason == Reason.VIEWS_DISAGREE and views is not None:
        left, right = (f"{title_of(v.label)} ({100 * v.confidence:.0f} %)" for v in views)
        text = (
            f"of two views side by side, the left one looks like {left}, the right one like {right}"
        )
    if reason == Reason.OUT_OF_DISTRIBUTION:
        text += ", so the percentages may be unreliable"
    if row.status == Status.REVIEW:
        return f"In review: {text}."
    return f"Routed to {title_of(str(row.destination))}: {text}."


def predicted_region(row: IndexRow) -> str:
    """Return in plain words the anatomic region that the model predicts, or ""."""
    region = row.region
    if region is None:
        return ""
    return (
        f"Region predicted by the model: {title_of(region.name)} ({100 * region.confidence:.0f} %)."
    )


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
    title = "Chest" if row.header_label in CHESTS else title_of(row.header_label)
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
