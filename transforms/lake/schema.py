"""The index: one row for each source object, its columns, their types and what they mean.

`IndexRow` is the only declaration of the columns; the Parquet schema and `docs/index-schema.md` follow
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import Status

ROW_GROUP_ROWS: Final = 65_536
SEGMENT_MARK: Final = "."
"""Parts the run id of a stream from the number of a window."""
PARTITION: Final = "ingest_date"
"""Stands in the folder name (hive style) and so not in the files."""
VERSION_COLUMNS: Final = ("source_uri", "source_version", "model_id")
"""What a row is of: a version of a source and who decided it; index files are in their order."""


def _column(description: str, arrow_type: pa.DataType, *, required: bool = False) -> Any:
    metadata = {"description": description, "type": arrow_type}
    return field(metadata=metadata) if required else field(default=None, metadata=metadata)


_TEXT, _REAL, _INT, _TIME = pa.string(), pa.float32(), pa.int32(), pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """What was decided about one source object, and why."""

    run_id: str = _column(
        "Run that wrote the row; of a stream, with a dot and the number of its window",
        _TEXT,
        required=True,
    )
    object_key: str = _column(
        "First 12 hex digits of sha256 of source_uri: the object's name in logs and errors",
        _TEXT,
        required=True,
    )
    ingest_date: str = _column("Date given with --ingest_date; the partition", _TEXT, required=True)
    ingested_at: int = _column("When the object was fetched, UTC", _TIME, required=True)
    router_version: str = _column("Version of the router", _TEXT, required=True)
    source_uri: str = _column(
        "Where the object came from; may hold what its sender put in the file name",
        _TEXT,
        required=True,
    )
    source_version: str = _column(
        "size-mtime_ns (local), generation (gs) or version id or ETag (s3)", _TEXT, required=True
    )
    source_size_bytes: int = _column("Size of the source object, bytes", pa.int64(), required=True)
    content_sha256: str | None = _column("sha256 of the bytes, hex", _TEXT)
    status: str | None = _column("routed, review, not_xray, quarantined or duplicate", _TEXT)
    stage: str | None = _column("Step that decided the row; see docs/index-schema.md", _TEXT)
    reason: str | None = _column("Why; a closed list, see docs/index-schema.md", _TEXT)
    destination: str | None = _column("Sink: a label, review, not_xray or quarantine", _TEXT)
    object_uri: str | None = _column(
        "Where the object's bytes are: relative to the lake's root, absolute in a sink elsewhere",
        _TEXT,
    )
    conflict: bool | None = _column(
        "Other bytes are known under the same SOP Instance UID", pa.bool_()
    )
    predicted_label: str | None = _column("Label of the highest probability", _TEXT)
    confidence: float | None = _column(
        "Calibrated probability of what was decided; both chests together where age settled them",
        _REAL,
    )
    prob_abdominal: float | None = _column("Calibrated probability of abdominal, 0..1", _REAL)
    prob_adult_chest: float | None = _column("Calibrated probability of adult_chest, 0..1", _REAL)
    prob_pediatric_chest: float | None = _column(
        "Calibrated probability of pediatric_chest, 0..1", _REAL
    )
    prob_spine: float | None = _column("Calibrated probability of spine, 0..1", _REAL)
    prob_others: float | None = _column("Calibrated probability of others, 0..1", _REAL)
    ood_score: float | None = _column("OOD score; higher is less like the training films", _REAL)
    model_id: str | None = _column("Model that decided; null where the header did", _TEXT)
    header_label: str | None = _column("Label that Body Part Examined names", _TEXT)
    header_agrees: bool | None = _column(
        "Whether header and decision name the same region; null without a claim", pa.bool_()
    )
    region_code: str | None = _column("SNOMED CT code of the decided region", _TEXT)
    region_meaning: str | None = _column("Meaning of region_code", _TEXT)
    sop_class_uid: str | None = _column("SOP Class UID (0008,0016)", _TEXT)
    sop_instance_uid: str | None = _column("SOP Instance UID (0008,0018)", _TEXT)
    series_instance_uid: str | None = _column("Series Instance UID (0020,000E)", _TEXT)
    study_instance_uid: str | None = _column("Study Instance UID (0020,000D)", _TEXT)
    transfer_syntax_uid: str | None = _column("Transfer Syntax UID (0002,0010)", _TEXT)
    modality: str | None = _column("Modality (0008,0060)", _TEXT)
    body_part_examined: str | None = _column("Body Part Examined (0018,0015)", _TEXT)
    view_position: str | None = _column("View Position (0018,5101)", _TEXT)
    laterality: str | None = _column(
        "Image Laterality (0020,0062) or Laterality (0020,0060)", _TEXT
    )
    patient_age_years: float | None = _column(
        "Patient's Age (0010,1010), else birth date to study date, years", _REAL
    )
    patient_sex: str | None = _column("Patient's Sex (0010,0040)", _TEXT)
    patient_key: str | None = _column(
        "HMAC-SHA-256 of Patient ID under --patient_key_file, hex; null without a key", _TEXT
    )
    manufacturer: str | None = _column("Manufacturer (0008,0070)", _TEXT)
    manufacturer_model_name: str | None = _column("Manufacturer's Model Name (0008,1090)", _TEXT)
    rows: int | None = _column("Rows (0028,0010), pixels", _INT)
    columns: int | None = _column("Columns (0028,0011), pixels", _INT)
    bits_stored: int | None = _column("Bits Stored (0028,0101)", _INT)
    photometric_interpretation: str | None = _column(
        "Photometric Interpretation (0028,0004)", _TEXT
    )
    number_of_frames: int | None = _column("Number of Frames (0028,0008), 1 where absent", _INT)
    policy_id: str | None = _column(
        "Policy in force, thresholds included: first 16 hex digits of its sha256", _TEXT
    )
    decided_by: str | None = _column(
        "What decided the destination: model, policy or person; null where the object is unreadable",
        _TEXT,
    )
    decided_at: int | None = _column("When the row was decided, UTC", _TIME)

    event_time: float | None = None
    """When the object came to be where it was found, seconds since 1970; no column of the index."""

    @property
    def identity(self) -> str:
        """What rows are grouped by; see `identity_of`."""
        return identity_of(self.status, self.sop_instance_uid, str(self.content_sha256))


def identity_of(status: str | None, sop_instance_uid: str | None, sha256: str) -> str:
    """Return what a row's object is: its SOP Instance UID, else its content.

    Quarantined objects are their content even where a UID could be read, as their names are: all
    rows that can name one file of the lake have one identity.
    """
    return sha256 if status == Status.QUARANTINED else sop_instance_uid or sha256


REPEATED_COLUMNS: Final = (
    "run_id ingest_date router_version destination predicted_label model_id header_label region_code "
    "region_meaning sop_class_uid transfer_syntax_uid modality body_part_examined view_position "
    "laterality patient_sex manufacturer manufacturer_model_name photometric_interpretation"
).split()
"""Columns with few distinct values, which are kept in memory once, not once a row."""
_COLUMNS: Final = [f for f in fields(IndexRow) if f.metadata]
COLUMNS: Final[dict[str, str]] = {f.name: f.metadata["description"] for f in _COLUMNS}

SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field(f.name, f.metadata["type"], metadata={"description": f.metadata["description"]})
        for f in _COLUMNS
        if f.name != PARTITION
    ]
)


def to_table(rows: Sequence[IndexRow]) -> pa.Table:
    """Return rows as a table of `SCHEMA`, in order of source_uri, source_version and model_id."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return in_order(pa.Table.from_pydict(columns, schema=SCHEMA))


def in_order(table: pa.Table) -> pa.Table:
    """Return a table of `SCHEMA` in the order of index files."""
    versions = {name: pc.fill_null(table[name], "") for name in VERSION_COLUMNS}
    order = [(name, "ascending") for name in versions]
    return table.take(pc.sort_indices(pa.table(versions), sort_keys=order))


DECIDED_COLUMNS: Final = ("policy_id", "decided_by", "decided_at")
"""What format 2 of the lake adds to the columns of format 1."""
FORMAT_1_COLUMNS: Final = tuple(name for name in COLUMNS if name not in DECIDED_COLUMNS)

_HISTORY_ONLY: Final = (
    pa.field("superseded_at", _TIME, metadata={"description": "When the row was superseded, UTC"}),
    pa.field(
        "superseded_by", _TEXT, metadata={"description": "Run whose decision replaced the row"}
    ),
)
HISTORY_SCHEMA: Final[pa.Schema] = pa.schema([*SCHEMA, *_HISTORY_ONLY])


def conform(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return a table with the columns of a schema, in its order and types, and any others after.

    A column that another release did not write is null; one that it has beyond ours is kept.
    """
    columns, extended = [], list(schema)
    for column in schema:
        if column.name in table.column_names:
            columns.append(table[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(len(table), column.type))
    for column in table.schema:
        if column.name not in schema.names and column.name != PARTITION:
            extended.append(column)
            columns.append(table[column.name])
    return pa.Table.from_arrays(columns, schema=pa.schema(extended))


def from_table(table: pa.Table, ingest_date: str) -> list[IndexRow]:
    """Return the rows of a table, those columns of it that this release knows."""
    known = conform(table).select(SCHEMA.names)
    times = [name for name in SCHEMA.names if SCHEMA.field(name).type == _TIME]
    for name in times:
        position = known.column_names.index(name)
        known = known.set_column(position, name, known[name].cast(pa.int64()))
    return [IndexRow(ingest_date=ingest_date, **row) for row in known.to_pylist()]


def missing_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of every format of the lake that a list of names lacks."""
    return [name for name in FORMAT_1_COLUMNS if name not in names]
