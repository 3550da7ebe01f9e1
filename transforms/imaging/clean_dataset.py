"""Clean a data set of what identifies a patient, by the rules of `imaging.confidentiality_profile`."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from transforms.imaging.confidentiality_profile import (
    CODE_PATTERNS,
    DEVICE_IDENTITY,
    NEVER_DATES,
    PATIENT_CHARACTERISTICS,
    TEXT_EMPTIED,
    TEXT_KEPT,
    VALUE_PATTERNS,
    Action,
    actions,
    dummy_of,
    is_expected_vr,
    is_valid_text,
    may_keep,
    tags_of,
)
from transforms.imaging.pseudonyms import Pseudonyms
from transforms.imaging.uids import is_valid_uid

REMOVE, SHIFT, KEEP = "remove", "shift", "keep"
DATES: Final = (REMOVE, SHIFT, KEEP)
SOP_CLASS, PATIENT_AGE = 0x00080016, 0x00101010
CODE_VALUE, CODE_SCHEME, CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
CODE_TAGS: Final = frozenset({CODE_VALUE, CODE_SCHEME, CODE_MEANING})
MAX_AGE_YEARS: Final = 89
"""Few patients are older, so that age identifies them; theirs becomes 90 years (45 CFR 164.514)."""
IDENTIFIERS: Final = tags_of(
    (
        *("PatientID", "OtherPatientIDs", "AccessionNumber", "PatientAddress"),
        *("PatientTelephoneNumbers", "InstitutionAddress", "AdmissionID"),
    )
)
"""Identifiers beside names that must not occur in what is kept."""
MAX_DEPTH: Final = 64
_NAME_PARTS: Final = re.compile(r"[\^= ]+")
_DATE: Final = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})(.*)", re.DOTALL)
_TIME: Final = re.compile(r"[0-9:.+-]{1,26}")
DATE_VRS: Final = frozenset({"DA", "DT", "TM"})


class Cleaner:
    """Clean the data set of one object.

    Args:
        pseudonyms: keyed hashes.
        dates: what becomes of dates and times: `REMOVE`, `SHIFT` or `KEEP`.
        retain_characteristics: whether to keep what `PATIENT_CHARACTERISTICS` lists.
        retain_device: whether to keep what `DEVICE_IDENTITY` lists.

    Attributes:
        identities: parts of names and other identifiers of the source.
        uids: UIDs of the source that are not registered in the standard.
        kept_texts: texts of the source that are in the result.
        patient_id: Patient ID of the source, or "".
    """

    def __init__(
        self,
        pseudonyms: Pseudonyms,
        *,
        dates: str = REMOVE,
        retain_characteristics: bool = False,
        retain_device: bool = False,
    ) -> None:
        self._pseudonyms, self._dates = pseudonyms, dates
        self._retained = tags_of(PATIENT_CHARACTERISTICS) if retain_characteristics else frozenset()
        self._retained |= tags_of(DEVICE_IDENTITY) if retain_device else frozenset()
        self._never_dates = tags_of(NEVER_DATES)
        self._days = 0
        self.identities: set[str] = set()
        self.uids: set[str] = set()
        self.kept_texts: list[str] = []
        self.patient_id = ""

    @property
    def patient_pseudonym(self) -> str:
        """What replaces name and Patient ID."""
        return self._pseudonyms.patient_id(self.patient_id)

    def clean(self, source: Dataset) -> Dataset:
        """Return the outermost data set without what identifies the patient."""
        self._collect(source, 0)
        self.patient_id = next(iter(_texts(_read(source, 0x00100020))), "")
        study = next(iter(_texts(_read(source, 0x0020000D))), "")
        self._days = self._pseudonyms.shift_days(self.patient_id or study)
        return self._clean(source, 0)

    def _collect(self, source: Dataset, depth: int) -> None:
        """Collect what must not occur in the result, also from what is removed."""
        for element in _elements(source):
            if element.VR == "SQ":
                for item in element.value if depth < MAX_DEPTH else ():
                    self._collect(item, depth + 1)
            elif element.VR == "UI":
                self.uids.update(u for u in _texts(element) if u and u not in UID_dictionary)
            elif element.VR == "PN":
                for text in _texts(element):
                    self.identities.update(part for part in _NAME_PARTS.split(text) if part)
            elif element.tag in IDENTIFIERS:
                self.identities.update(filter(None, _texts(element)))

    def _clean(self, source: Dataset, depth: int) -> Dataset:
        result = Dataset()
        for element in _elements(source):
            kept = self._element(element, depth)
            if kept is not None:
                result.add(kept)
        return result

    def _element(self, element: DataElement, depth: int) -> DataElement | None:
        """Return what remains of an element, or None."""
        tag, vr = int(element.tag), str(element.VR)
        action = actions().get(tag)
        if action is not None and not is_expected_vr(tag, vr):
            return None
        if tag in self._retained and action is not None:
            return self._retain(element)
        is_date = action is not None and vr in DATE_VRS and tag not in self._never_dates
        if is_date and self._dates != REMOVE:
            return self._date(element)
        match action:
            case Action.REMOVE:
                return None
            case Action.EMPTY:
                return None if vr == "SQ" else DataElement(tag, vr, None)
            case Action.DUMMY:
                dummy = None if vr == "SQ" else dummy_of(vr)
                return None if dummy is None else DataElement(tag, vr, dummy)
            case Action.REPLACE_UID:
                return self._uids(element) if vr == "UI" else None
        if tag in TEXT_EMPTIED:
            return DataElement(tag, vr, None) if is_expected_vr(tag, vr) else None
        if action is None and not may_keep(tag, vr):
            return None
        if vr == "SQ":
            return self._sequence(element, depth)
        if vr == "UI":
            return self._uids(element)
        return self._verbatim(element)

    def _sequence(self, element: DataElement, depth: int) -> DataElement | None:
        if depth >= MAX_DEPTH:
            return None
        items = []
        for item in element.value:
            codes = _code(item)
            if codes is False:  # of an unknown coding scheme
                continue
            cleaned = self._clean(item, depth + 1)
            for tag, value in (codes if isinstance(codes, dict) else {}).items():
                cleaned.add_new(tag, "LO" if tag == CODE_MEANING else "SH", value)
            if len(cleaned):
                items.append(cleaned)
        return DataElement(element.tag, "SQ", Sequence(items)) if items else None

    def _uids(self, element: DataElement) -> DataElement | None:
        """Return an element with other UIDs; those of the standard, and of SOP classes, are kept."""
        replaced = []
        for uid in _texts(element):
            if uid in UID_dictionary or (int(element.tag) == SOP_CLASS and is_valid_uid(uid)):
                replaced.append(uid)
            elif uid:
                replaced.append(self._pseudonyms.uid(uid))
        return DataElement(element.tag, "UI", replaced) if replaced else None

    def _verbatim(self, element: DataElement) -> DataElement | None:
        """Return an element whose values are all valid, or None."""
        vr, tag = str(element.VR), int(element.tag)
        if vr in VALUE_PATTERNS or tag in TEXT_KEPT:
            texts = _texts(element)
            if not texts:
                return DataElement(tag, vr, None)
            if not all(is_valid_text(text, vr) for text in texts):
                return None
            if vr not in ("DS", "IS"):
                self.kept_texts += texts
        return DataElement(tag, vr, element.value)

    def _retain(self, element: DataElement) -> DataElement | None:
        """Return an element that an option keeps, if its values are valid."""
        vr, tag = str(element.VR), int(element.tag)
        if vr == "UI":
            valid = [uid for uid in _texts(element) if is_valid_uid(uid)]
            self.uids.difference_update(valid)
            return DataElement(tag, vr, valid) if valid else None
        texts = _texts(element) if isinstance(element.value, str | MultiValue) else []
        if any(not is_valid_text(text, vr) for text in texts if text):
            return None
        if vr in ("LO", "SH"):
            self.kept_texts += texts
        if tag == PATIENT_AGE and texts:
            return DataElement(tag, vr, _bounded_age(texts[0]))
        return DataElement(tag, vr, element.value)

    def _date(self, element: DataElement) -> DataElement | None:
        """Return an element of a date or time, moved to the past by `SHIFT`."""
        texts = _texts(element)
        if not texts or not all(map(_TIME.fullmatch, texts)):
            return None
        if self._dates == SHIFT and element.VR != "TM":
            shifted = [_shift(text, self._days) for text in texts]
            if None in shifted:
                return None
            texts = [text for text in shifted if text is not None]
        return DataElement(element.tag, str(element.VR), texts)


def _elements(source: Dataset) -> Iterator[DataElement]:
    """Yield the elements of a data set that can be decoded."""
    for tag in sorted(source.keys()):
        element = _read(source, int(tag))
        if element is not None:
            yield element


def _read(source: Dataset, tag: int) -> DataElement | None:
    try:
        element = source[Tag(tag)]
        if element.VR == "SQ":
            list(element.value)
    except Exception:  # pydicom raises many types for malformed elements
        return None
    return element if isinstance(element, DataElement) else None


def _texts(element: DataElement | None) -> list[str]:
    """Return the values of an element as text."""
    if element is None or element.value is None:
        return []
    value: Any = element.value
    values: Iterable[Any] = value if isinstance(value, MultiValue | list | tuple) else [value]
    found = [_text(one).strip(" \0") for one in values]
    return [] if found == [""] else found


def _text(value: Any) -> str:
    """Return a value as text; a number as it was written, which may be invalid."""
    written = getattr(value, "original_string", None)
    return written if isinstance(written, str) else str(value)


def _code(item: Dataset) -> dict[int, str] | bool:
    """Return value, scheme and meaning of a coded item; True for another item, False for unknown codes.

    The meaning is that of the standard, as far as pydicom knows it, and else the code itself.
    """
    if not any(tag in item for tag in CODE_TAGS):
        return True
    value, scheme = (" ".join(_texts(_read(item, tag))) for tag in (CODE_VALUE, CODE_SCHEME))
    pattern = CODE_PATTERNS.get(scheme)
    if pattern is None or not pattern.fullmatch(value):
        return False
    return {
        CODE_VALUE: value,
        CODE_SCHEME: scheme,
        CODE_MEANING: _meanings().get((scheme, value), value),
    }


@functools.cache
def _meanings() -> dict[tuple[str, str], str]:
    """Return the meanings of codes of PS3.16 by scheme and value."""
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    found = {
        (scheme, value): meaning
        for scheme in ("SCT", "DCM")
        for codes in _known(concepts, scheme).values()
        for value, (meaning, *_) in codes.items()
        if len(meaning) <= 64 and meaning.isascii()
    }
    retired = {
        (scheme, old): found[("SCT", new)]
        for scheme in ("SRT", "SNM3")
        for old, new in mapping["SRT"].items()
        if ("SCT", new) in found
    }
    return {**found, **retired}


def _known(concepts: Any, scheme: str) -> dict[str, dict[str, tuple[str, Any]]]:
    found: dict[str, dict[str, tuple[str, Any]]] = concepts[scheme]
    return found


def _bounded_age(age: str) -> str:
    return "090Y" if age[3:] == "Y" and int(age[:3]) > MAX_AGE_YEARS else age


def _shift(text: str, days: int) -> str | None:
    """Return a date or date and time some days earlier; None if it has no valid date."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        date = datetime.date(*(int(part) for part in match.groups()[:3]))
        return (date - datetime.timedelta(days)).strftime("%Y%m%d") + match[4]
    except (ValueError, OverflowError):
        return None
