"""An explanation names the values that decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.config.test_policy import POLICY, probabilities
from tests.lake.rows import index_row
from transforms.config.decide_row import Prediction, decide_row
from transforms.config.explain_decision import explain_decision
from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.lake.view_columns import View, Views
from transforms.sandbox.examine import quarantined

CHESTS = {"adult_chest": 0.5, "pediatric_chest": 0.45}


@pytest.mark.parametrize(
    ("by_label", "columns", "text"),
    [
        ({"spine": 0.9}, {}, "spine 0.9000 reaches the threshold of 0.8"),
        (
            CHESTS,
            {"patient_age_years": 7.0},
            "the pixels show a chest (0.9500, threshold 0.8), and the patient's age of 7 years is below "
            "18: pediatric_chest",
        ),
        (
            {"adult_chest": 0.985, "pediatric_chest": 0.005},
            {"patient_age_years": 7.0},
            "the patient's age of 7 years is below 18: pediatric_chest; but the pixels show adult_chest",
        ),
        ({"spine": 0.7}, {}, "spine 0.7000 is below the threshold of 0.8"),
        (
            {"adult_chest": 0.3, "pediatric_chest": 0.2, "abdominal": 0.4},
            {"patient_age_years": 40.0},
            "the pixels show a chest (0.5000), which is below the threshold of 0.8 where an age decides",
        ),
        (
            {"spine": 0.6, "abdominal": 0.39},
            {"body_part_region": "SPINE", "protocol_name_region": "SPINE"},
            "the pixels leave the label open (spine 0.6000, threshold 0.8); Body Part Examined claims "
            "SPINE, Protocol Name claims SPINE, which makes spine 0.9623 by pixels and header together",
        ),
        ({"spine": 0.9}, {"rows": 50}, "the longer side has 50 pixels, fewer than 64"),
        ({"spine": 0.9}, {"ood_score": 3.0}, "the OOD score of 3.00 exceeds -1.00"),
    ],
)
def test_an_explanation_has_the_values(
    by_label: dict[str, float], columns: dict[str, Any], text: str
) -> None:
    ood_score = columns.pop("ood_score", -5.0)
    row = index_row("/in/1.dcm", **{"rows": 2000, "columns": 40, **columns})
    decided = decide_row(row, Prediction(probabilities(**by_label), ood_score, "m"), POLICY)
    assert explain_decision(decided, POLICY) == text


def test_an_explanation_has_the_threshold_of_the_age() -> None:
    policy = replace(POLICY, age_thresholds={"pediatric_chest": 0.97})
    row = index_row("/in/1.dcm", rows=2000, columns=40, patient_age_years=7.0)
    decided = decide_row(row, Prediction(probabilities(**CHESTS), -5.0, "m"), policy)
    assert explain_decision(decided, policy) == (
        "the pixels show a chest (0.9500), which is below the threshold of 0.97 where an age decides"
    )


def test_an_explanation_names_the_views() -> None:
    views = Views(View("spine", 0.99), View("others", 0.951))
    prediction = Prediction(probabilities(spine=0.6), -5.0, "m", views=views)
    row = decide_row(index_row("/in/1.dcm", rows=2000, columns=40), prediction, POLICY)
    assert explain_decision(row, POLICY) == (
        "two views side by side: the left one shows spine (0.9900), the right one others (0.9510)"
    )


def test_an_object_without_a_prediction_has_the_meaning_of_its_reason() -> None:
    row = quarantined(index_row("/in/1.dcm"), InvalidObject(Stage.FETCH, Reason.EMPTY))
    assert explain_decision(row, POLICY) == "the object is empty"
