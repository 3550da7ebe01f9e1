"""The queries of `verify` over the rows and objects of a lake, in DuckDB's SQL.

Quarantined rows have no duplicates or conflicts, because an unreadable object has no identity.
"""

from __future__ import annotations

from typing import Final

from transforms.core.reasons import Reason, Status
from transforms.lake.layout import HASH_IN_NAME, REGION_PREFIX
from transforms.lake.schema import RUN_ID_SEPARATOR

STATUSES: Final = tuple(str(status) for status in Status)
ROW_COLUMNS: Final = (
    "run_id object_key source_uri source_version source_state source_size_bytes model_id status stage "
    "reason "
    "destination object_uri content_sha256 sop_instance_uid series_instance_uid "
    "study_instance_uid conflict predicted_region superseded_at"
).split()

_TYPES: Final = {
    "source_size_bytes": "BIGINT",
    "conflict": "BOOLEAN",
    "superseded_at": "TIMESTAMPTZ",
}
_COLUMNS: Final = ", ".join(f"{name} {_TYPES.get(name, 'VARCHAR')}" for name in ROW_COLUMNS)
_NAMED: Final = ", ".join(f"'{status}'" for status in STATUSES)
_GROUPED: Final = f"status <> '{Status.QUARANTINED}' AND sop_instance_uid IS NOT NULL"
_FIRST: Final = f"{_GROUPED} AND status <> '{Status.DUPLICATE}'"
_FILE: Final = f"'~' || left(content_sha256, {HASH_IN_NAME}) || '.dcm'"

_REGION: Final = f"(/body_part=[^/]+)/{REGION_PREFIX}([^/]+)(/study=)"
"""Pattern of a folder by region."""
_REGION_NAME: Final = f"regexp_extract(object_uri, '{_REGION}', 2)"

CREATE_TABLES: Final = f"""
CREATE TABLE rows ({_COLUMNS}, object VARCHAR, inside BOOLEAN);
CREATE TABLE history ({_COLUMNS}, object VARCHAR, inside BOOLEAN);
CREATE TABLE journal (object VARCHAR);
CREATE TABLE reports (uri VARCHAR, name VARCHAR);
CREATE TABLE objects (uri VARCHAR, size BIGINT, version VARCHAR, state VARCHAR);
"""

VIOLATIONS: Final = {
    "unknown status": f"""
        SELECT object_key, '' FROM rows WHERE status IS NULL OR status NOT IN ({_NAMED})""",
    "row without stage or reason": """
        SELECT object_key, '' FROM rows
        WHERE coalesce(stage, '') = '' OR coalesce(reason, '') = ''""",
    "row without an object": """
        SELECT object_key, '' FROM rows WHERE coalesce(object_uri, '') = ''""",
    "same content routed twice in a run": f"""
        SELECT min(object_key), '' FROM rows WHERE {_FIRST}
        GROUP BY sop_instance_uid, content_sha256, run_id, coalesce(model_id, '')
        HAVING count(*) > 1""",
    "duplicate without a first": f"""
        SELECT object_key, '' FROM rows
        ANTI JOIN (SELECT sop_instance_uid, content_sha256 FROM rows WHERE {_FIRST})
        USING (sop_instance_uid, content_sha256)
        WHERE {_GROUPED} AND status = '{Status.DUPLICATE}'""",
    "conflict not flagged": f"""
        SELECT object_key, '' FROM rows
        SEMI JOIN (
            SELECT sop_instance_uid, run_id FROM rows WHERE {_GROUPED}
            GROUP BY ALL HAVING count(DISTINCT content_sha256) > 1
        ) USING (sop_instance_uid, run_id)
        WHERE {_GROUPED} AND NOT coalesce(conflict, false)""",
    "object_uri does not match its row": f"""
        SELECT object_key, '' FROM rows
        WHERE object_uri <> source_uri AND NOT CASE
            WHEN status = '{Status.QUARANTINED}' THEN ends_with(
                object_uri,
                '/quarantine/' || left(content_sha256, 2) || '/' || content_sha256 || '.dcm')
            WHEN status = '{Status.DUPLICATE}' AND NOT inside
                AND NOT ends_with(object_uri, {_FILE})
                THEN true  -- the source of a first that is only indexed
            ELSE (
                reason = '{Reason.SAME_CONTENT}'  -- the object is where the region of the first put it
                OR {_REGION_NAME} IN ('', coalesce(predicted_region, ''))
            ) AND ends_with(
                regexp_replace(object_uri, '{_REGION}', '\\1\\3'),
                '/body_part=' || coalesce(destination, '')
                || '/study=' || coalesce(study_instance_uid, '')
                || '/series=' || coalesce(series_instance_uid, '')
                || '/' || coalesce(sop_instance_uid, '') || {_FILE})
            END""",
    "object of another size": """
        SELECT object_key, object FROM rows
        JOIN objects ON rows.object = objects.uri
        WHERE size <> source_size_bytes""",
    "superseded row without a current one": """
        SELECT object_key, '' FROM history
        ANTI JOIN rows USING (source_uri, source_version)""",
}
"""Query by kind of violation; selects an object key and the URI of a file of the lake, or ''."""

SECOND_ROW: Final = """
SELECT object_key, '' FROM rows
GROUP BY object_key, source_uri, source_version HAVING count(*) > 1"""
SECOND_ROW_FORMAT_1: Final = """
SELECT object_key, '' FROM rows
GROUP BY object_key, source_uri, source_version, coalesce(model_id, '') HAVING count(*) > 1"""

CONFLICTS: Final = f"""
SELECT DISTINCT sop_instance_uid FROM rows WHERE {_GROUPED} AND conflict ORDER BY 1"""

UNLISTED_OBJECTS: Final = """
SELECT object_key, object, source_size_bytes, inside,
    CASE WHEN object_uri = source_uri THEN source_version END, source_state, content_sha256
FROM rows
ANTI JOIN objects ON rows.object = objects.uri
WHERE object <> ''"""

UNREFERENCED_REPORTS: Final = f"""
SELECT uri FROM reports
ANTI JOIN (
    SELECT 'body_part=' || destination || '/study=' || study_instance_uid || '/series='
        || series_instance_uid || '/' || sop_instance_uid || {_FILE} AS name
    FROM rows WHERE status = '{Status.ROUTED}'
) AS routed USING (name)
ANTI JOIN journal ON ends_with(
    regexp_replace(journal.object, '{_REGION}', '\\1\\3'), '/objects/' || reports.name)"""
"""Structured reports about objects that are not routed, or no longer to this label."""

UNREFERENCED_OBJECTS: Final = """
SELECT uri FROM objects
ANTI JOIN rows ON rows.object = objects.uri
ANTI JOIN journal ON journal.object = objects.uri"""

CHANGED_LINKS: Final = """
SELECT object_key, object, content_sha256, inside FROM rows
JOIN objects ON rows.object = objects.uri
WHERE size = source_size_bytes
    AND split_part(state, '-', 2) = split_part(source_state, '-', 2)
    AND (state <> source_state OR NOT starts_with(source_version, version))"""
"""Objects that have the inode of their source, and another state or modification time than when they were
placed: somebody has edited the file, or only changed its permissions or links."""

STORED_OBJECTS: Final = """
SELECT min(object_key), object, content_sha256, bool_or(inside) FROM rows
LEFT JOIN objects ON rows.object = objects.uri
WHERE object <> '' AND (uri IS NOT NULL OR NOT inside)
GROUP BY object, content_sha256"""

ROWS_OF_RUNS: Final = f"""
WITH written AS (
    SELECT split_part(run_id, '{RUN_ID_SEPARATOR}', 1) AS run, source_uri, source_version,
        arg_min(status, coalesce(superseded_at, 'infinity'::TIMESTAMPTZ)) AS status
    FROM (SELECT * FROM rows UNION ALL SELECT * FROM history)
    GROUP BY ALL
)
SELECT run, status, count(*) FROM written GROUP BY ALL"""
"""Number of rows that each run has written, by status at that time. A row that was changed along with its
first is also in the history, and counts once."""
