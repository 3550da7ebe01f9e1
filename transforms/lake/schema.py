"""The schema of the index: one row per source object; names, types and descriptions of its columns.

`IndexRow` declares the columns; the Parquet schema and `docs/index-schema.md` are derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import Status
from transforms.core.regions import PredictedRegion
from transforms.lake.view_columns import VIEW_COLUMNS

ROW_GROUP_ROWS: Final = 65_536
RUN_ID_SEPARATOR: Final = "."
"""Separates the id of a streaming run from the number of the segment in `run_id`, and of a slice."""
PARTITION: Final = "ingest_date"
"""Hive partition: the column is in the folder name, not in the files."""
SORT_COLUMNS: Final = ("source_uri", "source_version", "model_id")
"""Columns by which the rows of index files are sorted."""

VersionKey: TypeAlias = tuple[str, str]
"""Source URI and source version: identifies one version of one source object."""


def _column(description: str, arrow_type: pa.DataType, *, required: bool = False) -> Any:
    metadata = {"description": description, "type": arrow_type}
    return field(metadata=metadata) if required else field(default=None, metadata=metadata)


_TEXT, _REAL, _INT, _TIME = pa.string(), pa.float32(), pa.int32(), pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """The decision about one source object."""

    run_id: str = _column(
        "Run that wrote the row; for a stream, followed by a dot and the number of the segment",
        _TEXT,
        required=True,
    )
    object_key: str = _column(
        "First 12 hex digits of the sha256 of source_uri; identifies the object in logs and errors",
        _TEXT,
        required=True,
    )
    ingest_date: str = _column("Date given with --ingest_date; the partition", _TEXT, required=True)
    ingested_at: int = _column("Time at which the object was fetched, UTC", _TIME, required=True)
    router_version: str = _column("Version of the router", _TEXT, required=True)
    source_uri: str = _column(
        "Path or URI of the source object; the file name may contain patient data",
        _TEXT,
        required=True,
    )
    source_version: str = _column(
        "size-mtime_ns (local; with source_state appended where an earlier row of the same size and "
        "time has other content), generation (gs), or version id or ETag (s3)",
        _TEXT,
        required=True,
    )
    source_size_bytes: int = _column("Size of the source object, bytes", pa.int64(), required=True)
    content_sha256: str | None = _column("sha256 of the object's bytes, hex", _TEXT)
    status: str | None = _column("routed, review, not_xray, quarantined or duplicate", _TEXT)
    stage: str | None = _column("Step that decided the row; see docs/index-schema.md", _TEXT)
    reason: str | None = _column("Reason for the status; see docs/index-schema.md", _TEXT)
    destination: str | None = _column("Sink: a label, review, not_xray or quarantine", _TEXT)
    object_uri: str | None = _column(
        "Path or URI of the stored object: relative to the lake, or absolute outside it",
        _TEXT,
    )
    conflict: bool | None = _column(
        "Whether the SOP Instance UID is known with different content", pa.bool_()
    )
    predicted_label: str | None = _column("Label with the highest probability", _TEXT)
    confidence: float | None = _column(
        "Calibrated probability of the label that model and policy decided; of both chest labels where "
        "the age decided, 0..1",
        _REAL,
    )
    prob_abdominal: float | None = _column("Calibrated probability of abdominal, 0..1", _REAL)
    prob_adult_chest: float | None = _column("Calibrated probability of adult_chest, 0..1", _REAL)
    prob_pediatric_chest: float | None = _column(
        "Calibrated probability of pediatric_chest, 0..1", _REAL
    )
    prob_spine: float | None = _column("Calibrated probability of spine, 0..1", _REAL)
    prob_others: float | None = _column("Calibrated probability of others, 0..1", _REAL)
    ood_score: float | None = _column("OOD score; higher is less like the training images", _REAL)
    model_id: str | None = _column("Model that classified the image; null if none did", _TEXT)
    header_label: str | None = _column(
        "Label that Body Part Examined and Anatomic Region Sequence correspond to", _TEXT
    )
    header_agrees: bool | None = _column(
        "Whether header_label and decision are the same region; null without a header_label",
        pa.bool_(),
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
        "Patient's Age (0010,1010), else time from birth date to study date, years; above 0, at most 120",
        _REAL,
    )
    patient_sex: str | None = _column("Patient's Sex (0010,0040)", _TEXT)
    patient_key: str | None = _column(
        "HMAC-SHA-256 of Patient ID with the key in --patient_key_file, hex; null without a key",
        _TEXT,
    )
    manufacturer: str | None = _column("Manufacturer (0008,0070)", _TEXT)
    manufacturer_model_name: str | None = _column("Manufacturer's Model Name (0008,1090)", _TEXT)
    rows: int | None = _column("Rows (0028,0010), pixels", _INT)
    columns: int | None = _column("Columns (0028,0011), pixels", _INT)
    bits_stored: int | None = _column("Bits Stored (0028,0101)", _INT)
    photometric_interpretation: str | None = _column(
        "Photometric Interpretation (0028,0004)", _TEXT
    )
    number_of_frames: int | None = _column("Number of Frames (0028,0008); 1 if absent", _INT)
    policy_id: str | None = _column(
        "First 16 hex digits of the sha256 of the policy, with the thresholds in force", _TEXT
    )
    decided_by: str | None = _column(
        "What decided the destination: model, policy or person; null if the object is unreadable",
        _TEXT,
    )
    decided_at: int | None = _column("Time of the decision, UTC", _TIME)
    source_state: str | None = _column(
        "ctime_ns-inode of a local source; null in stores and in rows of earlier releases", _TEXT
    )
    body_part_region: str | None = _column(
        "Region that Body Part Examined claims: CHEST, ABDOMEN, SPINE or OTHER", _TEXT
    )
    coded_region: str | None = _column(
        "Region that Anatomic Region Sequence (0008,2218) claims, as body_part_region", _TEXT
    )
    series_description_region: str | None = _column(
        "Region that words in Series Description (0008,103E) claim; the text is not kept", _TEXT
    )
    protocol_name_region: str | None = _column(
        "Region that words in Protocol Name (0018,1030) claim; the text is not kept", _TEXT
    )
    combined_label: str | None = _column(
        "Label that pixels and header together make most probable; null if the header claims nothing or "
        "header_evidence is off",
        _TEXT,
    )
    combined_confidence: float | None = _column(
        "Probability of combined_label by pixels and header together; of both chest labels where the "
        "age decided, 0..1",
        _REAL,
    )
    shadow_label: str | None = _column(
        "Label with the highest probability by the model of --shadow_model, which decides nothing",
        _TEXT,
    )
    shadow_confidence: float | None = _column("Calibrated probability of shadow_label, 0..1", _REAL)
    shadow_model_id: str | None = _column(
        "Model of shadow_label; null without --shadow_model", _TEXT
    )
    probabilities: tuple[tuple[str, float], ...] | None = _column(
        "Calibrated probability by label, 0..1, of a model with other labels than those of the prob_* "
        "columns; else null",
        pa.map_(_TEXT, _REAL),
    )
    predicted_region: str | None = _column(
        "Anatomic region that the model predicts, finer than the label, such as knee; null where the "
        "model is unsure or has no regions, or where another label was decided than it predicts",
        _TEXT,
    )
    region_confidence: float | None = _column(
        "Calibrated probability of predicted_region, 0..1", _REAL
    )
    predicted_region_code: str | None = _column(
        "SNOMED CT code of predicted_region by DICOM PS3.16 CID 4031, or null; region_code is that of "
        "the decided label",
        _TEXT,
    )
    left_view_label: str | None = _column(
        "Label with the highest probability of the left of two views that the image shows side by side; "
        "null if it shows one. The probabilities of the image are then those of its views together",
        _TEXT,
    )
    left_view_confidence: float | None = _column(
        "Calibrated probability of left_view_label, 0..1", _REAL
    )
    right_view_label: str | None = _column("As left_view_label, of the right view", _TEXT)
    right_view_confidence: float | None = _column(
        "Calibrated probability of right_view_label, 0..1", _REAL
    )

    event_time: float | None = None
    """When the source object was written, seconds since 1970. Not a column of the index."""
    thumbnail: bytes | None = None
    """The image as WebP, from the decision until it is in the journal. Not a column of the index."""
    header: str | None = None
    """The header as DICOM JSON, until it is in the journal. Not a column of the index."""

    @property
    def identity(self) -> str:
        """The key by which duplicates and conflicts are found; see `identity_of`."""
        return identity_of(self.status, self.sop_instance_uid, str(self.content_sha256))

    @property
    def version_key(self) -> VersionKey:
        """The source version that the row describes."""
        return self.source_uri, self.source_version

    @property
    def uri_parts(self) -> tuple[str, str, str, str, str]:
        """The arguments of `Layout.report_uri`, and with the region of `Layout.object_uri`."""
        return (
            str(self.destination),
            str(self.study_instance_uid),
            str(self.series_instance_uid),
            str(self.sop_instance_uid),
            str(self.content_sha256),
        )

    @property
    def region(self) -> PredictedRegion | None:
        """The region that the model predicts."""
        if self.predicted_region is None or self.region_confidence is None:
            return None
        return PredictedRegion(
            self.predicted_region, self.region_confidence, self.predicted_region_code
        )

    @property
    def deciding_run(self) -> str:
        """Id of the run that decided the row: `run_id` without a segment number."""
        return run_of(self.run_id)


def decision_order(row: IndexRow) -> tuple[str, str, int]:
    """Return the sort key by which one of several rows of a source version is chosen: the first."""
    return row.model_id or "", str(row.object_uri), row.ingested_at


def identity_of(status: str | None, sop_instance_uid: str | None, sha256: str) -> str:
    """Return the identity of an object: its SOP Instance UID, or its sha256 if it has none.

    The identity of a quarantined object is always its sha256, as its name is: all rows that can
    reference one stored object have the same identity.
    """
    return sha256 if status == Status.QUARANTINED else sop_instance_uid or sha256


IDENTITY_SQL: Final = f"""
CASE WHEN status = '{Status.QUARANTINED}' THEN content_sha256
ELSE coalesce(nullif(sop_instance_uid, ''), content_sha256) END"""
"""`identity_of` as an expression of DuckDB over the columns of the index."""
VERSION_HASH_SQL: Final = "md5_number(source_uri || chr(0) || source_version)"
"""A hash of `VersionKey`, UHUGEINT, as an expression of DuckDB over the columns of the index."""

REPEATED_COLUMNS: Final = (
    "run_id ingest_date router_version destination predicted_label model_id header_label region_code "
    "region_meaning sop_class_uid transfer_syntax_uid modality body_part_examined view_position "
    "laterality patient_sex manufacturer manufacturer_model_name photometric_interpretation "
    "body_part_region coded_region series_description_region protocol_name_region combined_label "
    "shadow_label shadow_model_id predicted_region predicted_region_code left_view_label "
    "right_view_label"
).split()
"""Columns with few distinct values, each of which is kept in memory once."""
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
    """Return rows as a table of `SCHEMA`, sorted by `SORT_COLUMNS`."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return sort_rows(pa.Table.from_pydict(columns, schema=SCHEMA))


def sort_rows(table: pa.Table) -> pa.Table:
    """Return a table of `SCHEMA`, sorted by `SORT_COLUMNS`."""
    versions = {name: pc.fill_null(table[name], "") for name in SORT_COLUMNS}
    order = [(name, "ascending") for name in versions]
    return table.take(pc.sort_indices(pa.table(versions), sort_keys=order))


FORMAT_2_COLUMNS: Final = ("policy_id", "decided_by", "decided_at")
"""Columns that format 2 of the lake adds to those of format 1."""
REGION_COLUMNS: Final = ("predicted_region", "region_confidence", "predicted_region_code")
"""Columns of the region that the model predicts."""
LATER_COLUMNS: Final = (
    "source_state",
    "body_part_region",
    "coded_region",
    "series_description_region",
    "protocol_name_region",
    "combined_label",
    "combined_confidence",
    "shadow_label",
    "shadow_confidence",
    "shadow_model_id",
    "probabilities",
    *REGION_COLUMNS,
    *VIEW_COLUMNS,
)
"""Columns that later releases have added to format 2; files may lack them."""
FORMAT_1_COLUMNS: Final = tuple(
    name for name in COLUMNS if name not in (*FORMAT_2_COLUMNS, *LATER_COLUMNS)
)

_HISTORY_ONLY: Final = (
    pa.field("superseded_at", _TIME, metadata={"description": "When the row was superseded, UTC"}),
    pa.field(
        "superseded_by", _TEXT, metadata={"description": "Run whose decision replaced the row"}
    ),
)
HISTORY_SCHEMA: Final[pa.Schema] = pa.schema([*SCHEMA, *_HISTORY_ONLY])


def run_of(run_id: str) -> str:
    """Return the id of a run from `run_id`, which may have the number of a segment or slice."""
    return run_id.partition(RUN_ID_SEPARATOR)[0]


def is_of_run(run_ids: pa.ChunkedArray, run_id: str) -> pa.ChunkedArray:
    """Return which values of the column `run_id` are of a run, also of a segment or slice of it."""
    return pc.or_(pc.equal(run_ids, run_id), pc.starts_with(run_ids, f"{run_id}{RUN_ID_SEPARATOR}"))


def conform(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return a table with the columns of a schema, in its order and types, then any further columns.

    A column that the table lacks is null. The partition column is dropped.
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
    """Return the rows of a table; columns unknown to this release are ignored."""
    known = conform(table).select(SCHEMA.names)
    times = [name for name in SCHEMA.names if SCHEMA.field(name).type == _TIME]
    for name in times:
        position = known.column_names.index(name)
        known = known.set_column(position, name, known[name].cast(pa.int64()))
    return [IndexRow(ingest_date=ingest_date, **row) for row in plain_rows(known)]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table by column; a map is a tuple of pairs, so that records can be hashed."""
    rows: list[dict[str, Any]] = table.to_pylist()
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    for row in rows:
        for name in maps:
            if row[name] is not None:
                row[name] = tuple(row[name])
    return rows


def missing_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that every lake format has and a list of column names lacks."""
    return [name for name in FORMAT_1_COLUMNS if name not in names]
