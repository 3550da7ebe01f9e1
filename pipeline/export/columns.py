"""The columns of the index that leave the lake with an export: an allow-list.

Everything else stays: times, names of files, and what identifies an object, a study or a patient. The
hashes among them are not secret: who has the object can compute its sha256, and who has its UID or its
file name can find it again.
"""

from __future__ import annotations

from typing import Any, Final

from pipeline.export.options import PATIENT_KEY, SOURCE_URI, UIDS, ExportOptions
from transforms.lake.probabilities import PROBABILITY_COLUMNS
from transforms.lake.schema import SCHEMA
from transforms.lake.view_columns import VIEW_COLUMNS

EXPORTED: Final = (
    "object_key", "status", "reason", "destination", "predicted_label", "confidence",
    *PROBABILITY_COLUMNS, "ood_score", "model_id", "policy_id", "decided_by", "header_label",
    "header_agrees", "region_code", "region_meaning", "predicted_region", "region_confidence",
    "predicted_region_code", *VIEW_COLUMNS, "sop_class_uid", "transfer_syntax_uid", "modality",
    "body_part_examined", "view_position", "laterality", "patient_age_years", "patient_sex",
    "manufacturer", "manufacturer_model_name", "rows", "columns", "bits_stored",
    "photometric_interpretation", "number_of_frames", "body_part_region", "coded_region",
    "series_description_region", "protocol_name_region", "combined_label", "combined_confidence",
)  # fmt: skip
"""Columns that are always exported. Codes and UIDs of classes do not identify anybody."""
BY_IDENTIFIER: Final = {
    UIDS: (
        "sop_instance_uid",
        "series_instance_uid",
        "study_instance_uid",
        "content_sha256",
    ),
    PATIENT_KEY: ("patient_key",),
    SOURCE_URI: ("source_uri",),
}
"""Columns that `--identifiers` adds."""
MAX_AGE: Final = 90.0
"""Higher ages are exported as this one (45 CFR 164.514(b)(2)(i)(C)), unless identifiers are exported."""

INTERNAL: Final = (
    "content_sha256", "object_uri", "source_size_bytes", "source_uri", "source_version", "patient_key",
    "study_instance_uid", "series_instance_uid", "sop_instance_uid",
)  # fmt: skip
"""Columns that an export needs, without exporting them."""


def exported_columns(options: ExportOptions) -> list[str]:
    """Return the columns of the index that an export has, in order of the index."""
    chosen = {*EXPORTED, *(n for one in options.identifiers for n in BY_IDENTIFIER.get(one, ()))}
    return [name for name in SCHEMA.names if name in chosen]


def needed_columns() -> list[str]:
    """Return the columns of the index that any export reads, in order of the index."""
    chosen = {*EXPORTED, *INTERNAL}
    return [name for name in SCHEMA.names if name in chosen]


def exported_values(row: dict[str, Any], options: ExportOptions) -> dict[str, Any]:
    """Return what an export has of a row, by column.

    Args:
        row: a row of `Selection`.
        options: of the export.
    """
    values = {name: row[name] for name in exported_columns(options)}
    age = values["patient_age_years"]
    if age is not None and not options.identifiers:
        values["patient_age_years"] = min(age, MAX_AGE)
    return values
