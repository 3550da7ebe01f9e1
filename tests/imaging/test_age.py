"""Ages from headers that software filled: plausible values decide, placeholders do not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import dataset, to_bytes
from transforms.imaging.age import (
    MAX_PLAUSIBLE_AGE_YEARS,
    age_years,
    parse_age_string,
    parse_date,
)
from transforms.imaging.header import read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse

pytestmark = pytest.mark.filterwarnings("ignore")  # of pydicom, about the values


def age_of(**elements: Any) -> float | None:
    return read_header(parse(to_bytes(dataset(**elements)), Limits())).patient_age_years


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("045Y", 45.0),
        ("018M", 1.5),
        ("003W", 0.057),
        ("010D", 0.027),
        *((text, 45.0) for text in ("45Y", "045y", " 45Y", "045Y ", "45 Y", "45YR", "45 years")),
        ("5Y", 5.0),
        ("6M", 0.5),
        ("6 mos", 0.5),
        ("0.5Y", 0.5),
        ("120Y", 120.0),
        *((text, None) for text in ("45", "045", "XXXY", "Y045", "-01Y", "090Y+", "40-50Y", "")),
        *((text, None) for text in ("000Y", "000D", "999Y", "121Y", "999M9")),
    ],
)
def test_a_stated_age(text: str, years: float | None) -> None:
    assert age_of(PatientAge=text) == years


@pytest.mark.parametrize(
    ("birth", "study", "years"),
    [
        ("20100615", "20200614", 9.0),
        ("20100615", "20200615", 10.0),
        ("20200101", "20201101", 0.835),
        ("20190301", "20190303", 0.005),
        *((text, "20190303", 38.0) for text in ("1981/03/02", "1981.03.02", "1981-03-02")),
        ("1981.03.02", "2019.03.03", 38.0),
        ("19810302000000", "20190303", 38.0),
        ("1981-03-02T12:30:00", "20190303", 38.0),
        *((text, "20190303", None) for text in ("19", "1980", "198103", "810302", "1981032")),
        *(
            (text, "20190303", None)
            for text in ("00000000", "19811302", "02.03.1981", "1981.03/02")
        ),
        *((text, "20190303", None) for text in ("00010101", "17530101", "18991230", "19000101")),
        ("19680101", "19700101", None),
        ("19010101", "20220101", None),
        ("20300101", "20200615", None),
        ("20190303", "20190303", None),
        ("19000101", "19000101", None),
        ("00010101", "00010101", None),
    ],
)
def test_an_age_between_dates(birth: str, study: str, years: float | None) -> None:
    assert age_of(PatientBirthDate=birth, StudyDate=study) == years


@pytest.mark.parametrize(
    ("stated", "years"), [("000Y", 10.0), ("999Y", 10.0), ("10", 10.0), ("045Y", 45.0), ("5Y", 5.0)]
)
def test_a_plausible_stated_age_precedes_the_dates(stated: str, years: float) -> None:
    assert age_of(PatientAge=stated, PatientBirthDate="20100615", StudyDate="20200615") == years


@pytest.mark.parametrize(
    ("elements", "years"),
    [
        ({"PatientAge": "000D"}, 0.003),
        ({"PatientAge": "001D"}, 0.003),
        ({"PatientAge": "000Y"}, None),
        ({"PatientAge": "000Y", "PatientWeight": "3.2"}, 0.003),
        ({"PatientWeight": "3.2"}, 0.003),
        ({"PatientWeight": "70"}, None),
        ({"PatientWeight": "0"}, None),
        ({"PatientSize": "0.51"}, 0.003),
        ({"StudyDescription": "Chest AP, NICU bed 3"}, 0.003),
        ({"SeriesDescription": "babygram"}, 0.003),
        ({"SeriesDescription": "chest ap"}, None),
    ],
    ids=str,
)
def test_a_birth_on_the_day_of_the_study_needs_a_newborn(
    elements: dict[str, str], years: float | None
) -> None:
    assert age_of(PatientBirthDate="20190303", StudyDate="20190303", **elements) == years


def test_an_age_of_a_hundred_years_must_agree_with_dates_beside_it() -> None:
    assert age_of(PatientAge="100Y") == 100
    assert age_of(PatientAge="100Y", PatientBirthDate="19190101", StudyDate="20190303") == 100
    assert age_of(PatientAge="100Y", PatientBirthDate="20190303", StudyDate="20190303") is None
    assert age_of(PatientAge="110Y", PatientBirthDate="19810302", StudyDate="20190303") is None


TEXTS = st.one_of(
    st.none(),
    st.text("0123456789 .,/-+:TZDWMYymosr\u0663\uff15", max_size=20),
    st.integers(-1000, 10000).map(lambda n: f"{n:03}Y"),
    st.dates().map(lambda day: day.strftime("%Y%m%d")),
)


@given(TEXTS, TEXTS, TEXTS)
def test_an_age_is_plausible_or_none(
    stated: str | None, birth: str | None, study: str | None
) -> None:
    values = {"PatientAge": stated, "PatientBirthDate": birth, "StudyDate": study}
    years = age_years(values.get)
    assert years is None or 0 < years <= MAX_PLAUSIBLE_AGE_YEARS


@given(st.integers(0, 999), st.sampled_from("DWMYdwmy"), st.sampled_from(["", " ", "\t"]))
def test_an_age_is_read_in_any_spelling(number: int, unit: str, blank: str) -> None:
    standard = parse_age_string(f"{number:03}{unit.upper()}")
    assert standard is not None
    assert parse_age_string(f"{blank}{number}{blank}{unit}{blank}") == standard
    assert parse_age_string(str(number)) is None


@given(st.dates(), st.sampled_from(["", ".", "-", "/"]))
def test_a_date_has_eight_digits(day: date, separator: str) -> None:
    text = separator.join((f"{day.year:04}", f"{day.month:02}", f"{day.day:02}"))
    assert parse_date(text) == (day if day.year > 1900 else None)
    assert parse_date(text[2:]) is None
    assert parse_date(text[:-1]) is None
