"""Determine the patient's age from elements that software may have filled with placeholders.

Standard: PS3.3 C.7.1.1 (Patient's Birth Date) and C.7.2.2 (Patient's Age, Size and Weight), PS3.5 table
6.2-1 (VR AS, DA and DT). Objects of real archives deviate from it: Patient's Age as `45Y` or `6 months`,
dates of ACR-NEMA (`1981.03.02`) or ISO 8601, and placeholders such as 1900-01-01 where no date is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Final

MAX_PLAUSIBLE_AGE_YEARS: Final = 120.0
FIRST_BIRTH_YEAR: Final = 1901
"""Dates before this year are placeholders, such as 0001-01-01, 1753-01-01, 1899-12-30 and 1900-01-01."""
CLOCK_EPOCHS: Final = frozenset({date(1904, 1, 1), date(1970, 1, 1), date(1980, 1, 1)})
"""Study dates of a clock that was never set: the epochs of Mac OS, Unix and DOS."""
CENTENARIAN_YEARS: Final = 100.0
MAX_AGE_DIFFERENCE_YEARS: Final = 1.5
"""Of a stated age and the age between the dates, if both are true."""
DAYS_PER_UNIT: Final = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
AGE_STRING: Final = re.compile(
    r"([0-9]{1,3}(?:[.,][0-9]{1,3})?)\s*"
    r"(D(?:AYS?)?|W(?:K?S?|EEKS?)|M(?:OS?|THS?|ONTHS?)?|Y(?:RS?|EARS?|/?O)?)\.?",
    re.ASCII | re.IGNORECASE,
)
_TIME: Final = (
    r"(?:[ T]?[0-9]{2}(?::?[0-9]{2}){1,2}(?:\.[0-9]{0,6})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
DATE: Final = re.compile(
    rf"([0-9]{{4}})(?:([./-])([0-9]{{2}})\2([0-9]{{2}})|([0-9]{{2}})([0-9]{{2}})){_TIME}", re.ASCII
)
NEWBORN_WORDS: Final = re.compile(
    r"NEO-?NAT|NEW-?BORN|BABYGRAM|NICU\b|NEUGEBOREN|NOUVEAU.N|RECI[EÉ]N.NACID|RECEM.NASCID",
    re.IGNORECASE,
)
MAX_NEWBORN_KG: Final = 6.5
MAX_NEWBORN_M: Final = 0.65
DESCRIPTIONS: Final = (
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
    "BodyPartExamined",
)
"""Elements whose words can identify the image of a newborn; their values are not kept."""

Elements = Callable[[str], str | None]
"""Returns the first value of an element, by keyword, as text; None if it is missing or no text."""


def age_years(element: Elements) -> float | None:
    """Return the age at the study in years, above 0 and at most 120; None if no value is plausible.

    Patient's Age decides if it is plausible: `000Y` and `999Y` are not. Else the age is the time from
    birth date to study date, in completed years, or as a fraction below one year. Placeholders are no
    dates. A birth on the day of the study is one too, unless another element identifies a newborn. A
    stated age of 100 years or more beside dates must agree with them.

    Args:
        element: Provides the values.
    """
    stated = _plausible(parse_age_string(element("PatientAge") or ""))
    birth_text, study_text = element("PatientBirthDate"), element("StudyDate")
    birth, study = parse_date(birth_text or ""), parse_date(study_text or "")
    between = None
    if birth and study and study not in CLOCK_EPOCHS and _is_birth_date(birth, study, element):
        between = _plausible(_years_between(birth, study))
    if stated is None:
        return between
    if stated >= CENTENARIAN_YEARS and birth_text and study_text:
        agrees = between is not None and abs(stated - between) <= MAX_AGE_DIFFERENCE_YEARS
        return stated if agrees else None
    return stated


def parse_age_string(text: str) -> float | None:
    """Convert an age with a unit to years; None if it is malformed or has no unit.

    Accepts the Age String of the standard, `045Y`, and what software writes instead: fewer digits,
    decimals, lower case, blanks, and longer units such as `45 yrs`.
    """
    match = AGE_STRING.fullmatch(text.strip())
    if match is None:
        return None
    days = float(match[1].replace(",", ".")) * DAYS_PER_UNIT[match[2][0].upper()]
    return round(days / DAYS_PER_UNIT["Y"], 3)


def is_plausible_age(years: float | None) -> bool:
    """Return whether an age can be used in a decision; anonymizers write 0."""
    return years is not None and 0 < years <= MAX_PLAUSIBLE_AGE_YEARS


def parse_date(text: str) -> date | None:
    """Return the date in a text, or None unless it has a year of four digits, a month and a day.

    Accepts `YYYYMMDD`, the separators of ACR-NEMA and ISO 8601 (`.`, `/`, `-`), and a time after the date
    (VR DT). Dates before 1901 are placeholders and give None.
    """
    match = DATE.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day = int(match[1]), int(match[3] or match[5]), int(match[4] or match[6])
    try:
        found = date(year, month, day)
    except ValueError:
        return None
    return found if found.year >= FIRST_BIRTH_YEAR else None


def _plausible(years: float | None) -> float | None:
    return years if is_plausible_age(years) else None


def _is_birth_date(birth: date, study: date, element: Elements) -> bool:
    """Return whether a birth date is one: not after the study, and on its day only for newborns."""
    return birth < study or (birth == study and _is_newborn(element))


def _years_between(birth: date, study: date) -> float:
    years = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    return float(years) or round(max(1, (study - birth).days) / DAYS_PER_UNIT["Y"], 3)


def _is_newborn(element: Elements) -> bool:
    """Return whether something other than the dates identifies a newborn.

    That is Patient's Age in days, weeks or months, also `000D`; a weight or a size of a newborn; or a
    word in a description.
    """
    age = AGE_STRING.fullmatch((element("PatientAge") or "").strip())
    if age is not None and age[2][0].upper() != "Y":
        return True
    if _is_in(element("PatientWeight"), MAX_NEWBORN_KG) or _is_in(
        element("PatientSize"), MAX_NEWBORN_M
    ):
        return True
    return any(NEWBORN_WORDS.search(element(keyword) or "") for keyword in DESCRIPTIONS)


def _is_in(text: str | None, highest: float) -> bool:
    """Return whether a decimal text is above 0.1 and at most `highest`; 0 is a placeholder."""
    try:
        return 0.1 < float(text or "") <= highest
    except ValueError:
        return False
