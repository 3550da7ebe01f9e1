"""What the viewer says about the decision and the header."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.review.shown import explanation, header_claim, predicted_region
from tests.conftest import Lake
from tests.lake.rows import index_row
from tests.review.reviews import Browser, Review
from transforms.core.reasons import Reason, Status
from transforms.lake.view_columns import View, Views, columns_of_views


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"header_label": "others", "body_part_examined": "EXTREMITY", "header_agrees": True},
            "The header (EXTREMITY) names the same region as the model: Other body part.",
        ),
        (
            {"header_label": "adult_chest", "body_part_examined": "CHEST", "header_agrees": False},
            "The header (CHEST) names another region than the model: Chest.",
        ),
        (
            {
                "header_label": "spine",
                "body_part_examined": "UNKNOWN",
                "coded_region": "spine",
                "header_agrees": None,
            },
            "The header names: Spine.",
        ),
        ({"header_label": None}, "The header names no body part that the router knows."),
    ],
)
def test_the_header_is_compared_with_the_model(columns: dict[str, Any], text: str) -> None:
    assert header_claim(index_row("a", **columns)) == text


def test_an_image_unlike_the_training_data_has_unreliable_percentages() -> None:
    row = index_row("a", status=Status.REVIEW, reason=Reason.OUT_OF_DISTRIBUTION)
    assert explanation(row).endswith(
        "unlike those that the model was trained on, so the percentages may be unreliable."
    )


def test_views_that_disagree_are_named() -> None:
    views = Views(View("spine", 0.97), View("others", 0.951))
    columns = {"reason": Reason.VIEWS_DISAGREE, **columns_of_views(views)}
    assert explanation(index_row("a", status=Status.REVIEW, **columns)) == (
        "In review: of two views side by side, the left one looks like Spine (97 %), the right one like "
        "Other body part (95 %)."
    )


def test_the_region_that_the_model_predicts_is_named() -> None:
    row = index_row("a", predicted_region="lower_leg", region_confidence=0.934)
    assert predicted_region(row) == "Region predicted by the model: Lower leg (93 %)."
    assert predicted_region(index_row("a")) == ""


@pytest.mark.slow
def test_the_page_names_the_region_beside_the_probabilities(copied: Lake) -> None:
    for file in (copied.root / "index").rglob("*.parquet"):
        table = pq.read_table(file)
        for name, value in (("predicted_region", "lower_leg"), ("region_confidence", 0.934)):
            field = table.schema.field(name)
            values = pa.array([value] * len(table), field.type)
            table = table.set_column(table.schema.get_field_index(name), field, values)
        pq.write_table(table, file)
    with Review(copied.root, "--apply_interval=1000") as review:
        html = Browser(review, "ann").post("next")["item"]["html"]
    assert "Region predicted by the model: Lower leg (93 %). Percentages are" in html
