"""The queries of reports: what arrived, what waits for review, what is wrong.

All counts are of all rows; only lists of images are limited. An image is a row that is not a duplicate.
An image disagrees with its header if it is routed and `header_agrees` is false.
"""

from __future__ import annotations

from typing import Any, Final

from pipeline.report.database import ReportData
from transforms.core.labels import CHESTS, LABELS, sink_order
from transforms.core.reasons import BY_PERSON, MEANINGS, TERMS, UNCHANGED, Reason, Status
from transforms.lake.probabilities import PROBABILITY_COLUMNS
from transforms.lake.view_columns import VIEW_COLUMNS

DISAGREES: Final = f"status = '{Status.ROUTED}' AND header_agrees IS FALSE"
"""Condition of images whose header names another region than their pixels show."""
BY_MACHINE: Final = f"decided_by IS DISTINCT FROM '{BY_PERSON}'"
"""Condition of images that no person decided, whose confidence says how sure their decision is."""
WAITS: Final = f"status = '{Status.REVIEW}' AND {BY_MACHINE}"
"""Condition of images that wait for a reviewer; one that a person found unreadable does not."""
COMPARED: Final = f"status = '{Status.ROUTED}' AND header_agrees IS NOT NULL"
"""Condition of images whose header names a region to compare with."""
CLASSIFIED: Final = (
    f"status IN ('{Status.ROUTED}', '{Status.REVIEW}') AND confidence IS NOT NULL "
    "AND isfinite(confidence)"
)
"""Condition of images that a model has classified."""
_CHEST: Final = " + ".join(f"prob_{label}" for label in CHESTS)
HEADER_PROBABILITY: Final = (
    "CASE "
    + " ".join(
        f"WHEN header_label = '{label}' THEN {_CHEST if label in CHESTS else f'prob_{label}'}"
        for label in LABELS
    )
    + " ELSE map_extract(probabilities, header_label)[1] END"
)
"""Calibrated probability of the region that the header names."""
LISTED: Final = (
    "object_key, content_sha256, object_uri, ingest_date, status, stage, reason, destination, "
    "predicted_label, confidence, ood_score, header_label, header_agrees, body_part_examined, "
    "view_position, patient_age_years, modality, manufacturer, manufacturer_model_name, model_id, "
    f"policy_id, {', '.join((*PROBABILITY_COLUMNS, *VIEW_COLUMNS))}, decided_by, "
    f"{HEADER_PROBABILITY} AS header_probability"
)
_COUNTS: Final = ", ".join(
    f"count(*) FILTER (status = '{status}') AS {status}"
    for status in Status
    if status != Status.DUPLICATE
)
_COUNTED: Final = (
    "images", *(str(s) for s in Status if s != Status.DUPLICATE), "disagreements", "compared",
)  # fmt: skip


def status_counts(data: ReportData) -> dict[str, int]:
    """Return the number of rows by status, in the order of the completeness equation."""
    found = data.fetch("SELECT status, count(*) AS rows FROM rows GROUP BY status")
    counts = {row["status"]: row["rows"] for row in found}
    return {term: counts.get(term, 0) for term in TERMS if term != UNCHANGED}


def overview(data: ReportData) -> dict[str, Any]:
    """Return totals: rows, images, routed, review, …, waiting, disagreements, plates, bytes, days."""
    return data.one(f"""
        SELECT (SELECT count(*) FROM rows) AS rows, count(*) AS images, {_COUNTS},
            count(*) FILTER ({DISAGREES}) AS disagreements,
            count(*) FILTER ({COMPARED}) AS compared,
            count(*) FILTER (conflict) AS conflicts,
            count(DISTINCT sop_instance_uid) FILTER (conflict) AS conflicting_uids,
            count(*) FILTER (decided_by = '{BY_PERSON}') AS by_person,
            count(*) FILTER ({WAITS}) AS waiting,
            count(*) FILTER (left_view_label IS NOT NULL) AS plates,
            (SELECT coalesce(sum(source_size_bytes), 0)::BIGINT FROM rows) AS size_bytes,
            min(ingest_date) AS first_day, max(ingest_date) AS last_day
        FROM images""")


def destinations(data: ReportData) -> list[dict[str, Any]]:
    """Return the number of images of each sink, and their share.

    The mean confidence is of the images that no person decided.
    """
    found = data.fetch(f"""
        SELECT destination, count(*) AS images, count(*) / sum(count(*)) OVER () AS share,
            avg(confidence) FILTER (isfinite(confidence) AND {BY_MACHINE}) AS mean_confidence
        FROM images GROUP BY destination""")
    return sorted(found, key=lambda row: sink_order(row["destination"]))


def regions(data: ReportData) -> list[dict[str, Any]]:
    """Return the routed images of each sink by predicted region; None where the model is unsure.

    Without a predicted region in a sink, there are no rows of it.
    """
    found = data.fetch("""
        SELECT destination, predicted_region AS region, any_value(predicted_region_code) AS code,
            count(*) AS images, count(*) / sum(count(*)) OVER sink AS share,
            avg(region_confidence) AS mean_confidence, max(predicted_region) OVER sink AS named
        FROM images WHERE status = 'routed' GROUP BY destination, predicted_region
        WINDOW sink AS (PARTITION BY destination)
        QUALIFY named IS NOT NULL
        ORDER BY region IS NULL, images DESC, region""")
    return sorted(found, key=lambda row: sink_order(row["destination"]))


def breakdown(data: ReportData, column: str, limit: int) -> list[dict[str, Any]]:
    """Return the images by the value of a column, most frequent first.

    Args:
        data: the data.
        column: name of a column of the index.
        limit: values that are listed; the others are summed in a last row, with `is_rest`.
    """
    return data.fetch(
        f"""
        WITH counted AS (
            SELECT coalesce({column}::VARCHAR, '') AS value, count(*) AS images, {_COUNTS},
                count(*) FILTER ({DISAGREES}) AS disagreements, count(*) FILTER ({COMPARED}) AS compared
            FROM images GROUP BY 1
        ), ranked AS (
            SELECT *, row_number() OVER (ORDER BY images DESC, value) > $limit AS is_rest FROM counted
        )
        SELECT CASE WHEN is_rest THEN '' ELSE value END AS value, is_rest, count(*) AS values,
            {", ".join(f"sum({name})::BIGINT AS {name}" for name in _COUNTED)}
        FROM ranked GROUP BY 1, 2 ORDER BY is_rest, images DESC, value""",
        {"limit": limit},
    )


def days(data: ReportData) -> list[dict[str, Any]]:
    """Return the images by day of ingestion, in order of time."""
    return data.fetch(f"""
        SELECT ingest_date AS day, count(*) AS images, {_COUNTS},
            count(*) FILTER ({DISAGREES}) AS disagreements
        FROM images GROUP BY 1 ORDER BY 1""")


def reasons(data: ReportData, status: Status) -> list[dict[str, Any]]:
    """Return the reasons of a status with their number of images, meaning and remedy."""
    found = data.fetch(
        """
        SELECT reason, stage, count(*) AS images,
            min(object_key, 5) AS examples
        FROM images WHERE status = $status GROUP BY reason, stage ORDER BY images DESC, reason""",
        {"status": str(status)},
    )
    for row in found:
        known = MEANINGS.get(Reason(row["reason"])) if row["reason"] in set(Reason) else None
        row["meaning"] = known.text if known else ""
        row["remedy"] = known.remedy if known else ""
    return found


def header_matrix(data: ReportData) -> list[dict[str, Any]]:
    """Return the number of images by `header_label` (None: not usable), destination, and agreement."""
    return data.fetch(f"""
        SELECT header_label, destination, header_agrees, count(*) AS images
        FROM images WHERE status IN ('{Status.ROUTED}', '{Status.REVIEW}')
        GROUP BY ALL ORDER BY ALL""")


def disagreements(data: ReportData, limit: int, offset: int = 0) -> list[dict[str, Any]]:
    """Return images that disagree with their header; those with the most certainly wrong header first.

    The rank is the calibrated probability that the pixels give to the region of the header, from the
    lowest; equal ones by OOD score.
    """
    return _listed(
        data, DISAGREES, "header_probability NULLS LAST, ood_score, object_key", limit, offset
    )


def review_queue(data: ReportData, limit: int, reason: str | None = None) -> list[dict[str, Any]]:
    """Return images that wait for review, those with the lowest confidence first."""
    condition = f"status = '{Status.REVIEW}'"
    parameters: dict[str, Any] = {}
    if reason is not None:
        condition += " AND reason = $reason"
        parameters = {"reason": reason}
    order = "confidence NULLS FIRST, object_key"
    return _listed(data, condition, order, limit, parameters=parameters)


def least_confident(data: ReportData, destination: str, limit: int) -> list[dict[str, Any]]:
    """Return images of a sink, those with the lowest confidence first."""
    return _listed(
        data,
        "destination = $destination",
        "confidence NULLS LAST, object_key",
        limit,
        parameters={"destination": destination},
    )


def conflicts(data: ReportData, limit: int) -> list[dict[str, Any]]:
    """Return SOP Instance UIDs with more than one content, and the images that have them."""
    return data.fetch(
        """
        SELECT sop_instance_uid, count(*) AS images, min(object_key, 8) AS keys,
            list(DISTINCT destination ORDER BY destination) AS destinations
        FROM images WHERE conflict GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $limit""",
        {"limit": limit},
    )


def models(data: ReportData) -> list[dict[str, Any]]:
    """Return the models and policies that decided, with their number of images, most frequent first.

    Images that people decided come last, with the model that had classified them.
    """
    return data.fetch(f"""
        SELECT model_id, policy_id, NOT {BY_MACHINE} AS by_person, count(*) AS images
        FROM images WHERE model_id IS NOT NULL
        GROUP BY ALL ORDER BY by_person, images DESC, model_id, policy_id""")


def run_ids(data: ReportData) -> list[dict[str, Any]]:
    """Return the ids of the runs that decided the rows, their number of rows, the latest first.

    `by_person` is the number of the rows that a person decided.
    """
    return data.fetch(f"""
        SELECT split_part(run_id, '.', 1) AS run_id, count(*) AS rows,
            count(*) FILTER (decided_by = '{BY_PERSON}') AS by_person
        FROM rows
        GROUP BY 1 ORDER BY 1 DESC""")


def _listed(
    data: ReportData,
    condition: str,
    order: str,
    limit: int,
    offset: int = 0,
    parameters: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    return data.fetch(
        f"SELECT {LISTED} FROM images WHERE {condition} ORDER BY {order} LIMIT $limit OFFSET $offset",
        {**(parameters or {}), "limit": limit, "offset": offset},
    )
