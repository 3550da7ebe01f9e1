"""Compare the model with reviewers and with a second model."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from pipeline.report.database import ReportData
from pipeline.report.queries import LISTED
from transforms.lake.labels import NOT_RADIOGRAPH, UNREADABLE, effective_labels, read_labels

_PREDICTED: Final = "coalesce(labels.predicted_label, images.predicted_label)"
_ANSWERED: Final = f"{_PREDICTED} IS NOT NULL"
DEVICE: Final = """nullif(concat_ws(
    ' ', nullif(trim(manufacturer), ''), nullif(trim(manufacturer_model_name), '')), '')"""
"""Manufacturer and model name of the device, or null."""


def load_labels(data: ReportData) -> int:
    """Create the table `labels`: the effective answer about each content. Return their number.

    Raises:
        DamagedFile: a file of the labels cannot be read.
    """
    found = effective_labels(read_labels(data.scope.layout))
    kept = {content: one for content, one in found.items() if one.label is not None}
    table = pa.table(
        {
            "content_sha256": pa.array(kept, pa.string()),
            "answer": pa.array(
                [one.label.answer for one in kept.values() if one.label], pa.string()
            ),
            "predicted_label": pa.array(
                [one.label.predicted_label for one in kept.values() if one.label], pa.string()
            ),
            "reviewers": pa.array([len(one.answers) for one in kept.values()], pa.int32()),
            "disagrees": pa.array([one.disagrees for one in kept.values()], pa.bool_()),
        }
    )
    data.db.register("answers", table)
    data.db.execute("CREATE OR REPLACE TABLE labels AS FROM answers")
    data.db.unregister("answers")
    return len(kept)


def reviewer_overview(data: ReportData) -> dict[str, Any]:
    """Return the number of labelled images, agreements, other answers and disagreeing reviewers."""
    others = f"('{NOT_RADIOGRAPH}', '{UNREADABLE}')"
    return data.one(f"""
        SELECT count(*) AS images,
            count(*) FILTER ({_ANSWERED} AND answer NOT IN {others}) AS compared,
            count(*) FILTER (answer = {_PREDICTED}) AS agreed,
            count(*) FILTER (answer = '{NOT_RADIOGRAPH}') AS not_radiograph,
            count(*) FILTER (answer = '{UNREADABLE}') AS unreadable,
            count(*) FILTER (reviewers > 1) AS by_several,
            count(*) FILTER (disagrees) AS disputed
        FROM images JOIN labels USING (content_sha256)""")


def reviewer_matrix(data: ReportData) -> list[dict[str, Any]]:
    """Return the number of images by answer of the reviewers and label of the model."""
    return data.fetch(f"""
        SELECT answer, {_PREDICTED} AS predicted, count(*) AS images
        FROM images JOIN labels USING (content_sha256) WHERE {_ANSWERED} GROUP BY ALL ORDER BY ALL""")


def agreement_by(data: ReportData, expression: str, limit: int) -> list[dict[str, Any]]:
    """Return compared and agreeing images by an expression over `images`, most frequent first."""
    return data.fetch(
        f"""
        SELECT coalesce(({expression})::VARCHAR, '') AS value, count(*) AS compared,
            count(*) FILTER (answer = {_PREDICTED}) AS agreed
        FROM images JOIN labels USING (content_sha256)
        WHERE {_ANSWERED} AND answer IN (FROM (SELECT unnest($labels)))
        GROUP BY 1 ORDER BY compared DESC, value LIMIT $limit""",
        {"limit": limit, "labels": list(data.labels.names)},
    )


def by_predicted_label(data: ReportData) -> list[dict[str, Any]]:
    """Return compared and agreeing images by the label of the model."""
    return agreement_by(data, _PREDICTED, len(data.labels.names))


def by_device(data: ReportData, limit: int) -> list[dict[str, Any]]:
    """Return compared and agreeing images by device."""
    return agreement_by(data, DEVICE, limit)


def shadow_overview(data: ReportData) -> dict[str, Any]:
    """Return the number of images that a second model has classified, and agreements."""
    return data.one("""
        SELECT count(*) AS images, count(*) FILTER (shadow_label = predicted_label) AS agreed,
            avg(confidence) AS confidence, avg(shadow_confidence) AS shadow_confidence,
            list(DISTINCT model_id) AS models, list(DISTINCT shadow_model_id) AS shadow_models
        FROM images WHERE shadow_label IS NOT NULL AND predicted_label IS NOT NULL""")


def shadow_matrix(data: ReportData) -> list[dict[str, Any]]:
    """Return the number of images by label of the model and label of the second model."""
    return data.fetch("""
        SELECT predicted_label AS predicted, shadow_label AS shadow, count(*) AS images
        FROM images WHERE shadow_label IS NOT NULL AND predicted_label IS NOT NULL
        GROUP BY ALL ORDER BY ALL""")


def shadow_disagreements(data: ReportData, limit: int) -> list[dict[str, Any]]:
    """Return images that the models label differently, those with the most confident models first."""
    return data.fetch(
        f"""
        SELECT {LISTED}, shadow_label, shadow_confidence
        FROM images WHERE shadow_label <> predicted_label
        ORDER BY least(confidence, shadow_confidence) DESC, object_key LIMIT $limit""",
        {"limit": limit},
    )
