"""Write a lake of many million rows: real names, plausible values, and objects that are hard links.

Most days are compacted into one file, the last ones have the segments of a stream. One row in a hundred
is a duplicate, one quarantined, one was decided again and has a superseded row in the history. Each
object is a name of a file of 12 bytes that up to 60,000 names share, so that only `verify --deep`
finds that its content is not that of its row.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from models.bundle import read_info
from transforms.config.run_options import BUILT_IN_MODEL
from transforms.core.labels import DEFAULT_LABELS, LABELS
from transforms.core.reasons import BY_MODEL, TERMS, Reason, Stage, Status
from transforms.lake.append_log import LogShard, Segment
from transforms.lake.checksums import write_parquet
from transforms.lake.index_files import RUN_ID_KEY, shard_of
from transforms.lake.label_sets import record_label_set
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.schema import HISTORY_SCHEMA, ROW_GROUP_ROWS, SCHEMA, identity_of

FIRST_DAY: Final = date(2026, 1, 1)
SHARDS: Final = 4
STREAM_DAYS: Final = 4
"""Last days, which a stream has written and nothing has compacted."""
SEGMENTS: Final = 24
"""Segments of each shard and day of the stream."""
SERIES_OBJECTS: Final = 200
"""Objects of a series: more than usual, since folders are most of the space that links take."""
CONTENT_BYTES: Final = 12
SHARED, OWN, NONE = "shared", "own", "none"
"""How objects are written."""
LINKS: Final = 60_000
"""Names of one file; ext4 allows 65,000."""
DECIDED_AGAIN: Final = "20260601T000000Z-deadbeef"
_LABELS: Final = ", ".join(f"'{label}'" for label in LABELS)
_ROWS: Final = f"""
WITH numbered AS (
    SELECT range AS n, n % 100 AS part, hash(n) AS h, [{_LABELS}] AS labels,
        CASE WHEN part = 1 THEN n - 1 ELSE n END AS content, content // {SERIES_OBJECTS} AS number
    FROM range($first, $last)
), named AS (
    SELECT *, labels[1 + (hash(number) % 5)::INT] AS label,
        format('{{:0{CONTENT_BYTES}d}}', content) AS bytes, sha256(bytes) AS sha,
        $archive || '/' || $day || '/' || format('{{:012d}}', n) || '.dcm' AS source,
        '2.25.' || hash('instance' || content) || hash(content) AS instance,
        '2.25.' || hash(number) || hash(number + 1) AS series,
        '2.25.' || hash(number + 2) || hash(number) AS study,
        CASE WHEN part = 1 THEN '{Status.DUPLICATE}' WHEN part = 2 THEN '{Status.QUARANTINED}'
            WHEN part < 6 AND part > 2 THEN '{Status.NOT_XRAY}'
            WHEN part BETWEEN 6 AND 15 THEN '{Status.REVIEW}' ELSE '{Status.ROUTED}' END AS status,
        CASE WHEN part = 2 THEN 'quarantine' WHEN part BETWEEN 3 AND 5 THEN 'not_xray'
            WHEN part BETWEEN 6 AND 15 THEN 'review' ELSE label END AS destination,
        0.35 + 0.6 * (h % 1000) / 1000 AS low, 0.8 + 0.2 * (h % 1000) / 1000 AS high,
        part BETWEEN 6 AND 15 AS is_review, part NOT BETWEEN 2 AND 5 AS is_image,
        part <> 2 AS is_dicom
    FROM numbered
)
SELECT $run AS run_id, left(sha256(source), 12) AS object_key,
    $day::TIMESTAMPTZ + to_seconds((n % 86400)::INT) AS ingested_at, '0.1.0' AS router_version,
    source AS source_uri,
    '{CONTENT_BYTES}-' || (1767225600000000000 + h % 1000000000000000)::VARCHAR AS source_version,
    {CONTENT_BYTES} AS source_size_bytes, sha AS content_sha256, status,
    CASE WHEN part = 1 THEN '{Stage.SETTLE}' WHEN is_image THEN '{Stage.DECIDE}'
        ELSE '{Stage.HEADER}' END AS stage,
    CASE WHEN part = 1 THEN '{Reason.SAME_CONTENT}' WHEN is_review THEN '{Reason.LOW_CONFIDENCE}'
        WHEN part = 2 THEN '{Reason.NOT_DICOM}' WHEN is_image THEN '{Reason.CONFIDENT}'
        ELSE '{Reason.MODALITY}' END AS reason,
    destination,
    CASE WHEN part = 2 THEN 'quarantine/' || left(sha, 2) || '/' || sha || '.dcm'
        ELSE 'objects/body_part=' || destination || '/study=' || study || '/series=' || series
            || '/' || instance || '~' || left(sha, 16) || '.dcm' END AS object_uri,
    false AS conflict,
    CASE WHEN is_image THEN label END AS predicted_label,
    CASE WHEN is_review THEN low WHEN is_image THEN high END AS confidence,
    {
    ", ".join(
        f"CASE WHEN label = '{label}' THEN confidence ELSE (1 - confidence) / 4 END AS prob_{label}"
        for label in LABELS
    )
},
    CASE WHEN is_image THEN (h % 100) / 50 END AS ood_score,
    CASE WHEN is_image THEN $model END AS model_id,
    CASE WHEN is_image AND h % 10 < 8 THEN label END AS header_label,
    CASE WHEN header_label IS NOT NULL THEN true END AS header_agrees,
    CASE WHEN is_dicom THEN '1.2.840.10008.5.1.4.1.1.1.1' END AS sop_class_uid,
    CASE WHEN is_dicom THEN instance END AS sop_instance_uid,
    CASE WHEN is_dicom THEN series END AS series_instance_uid,
    CASE WHEN is_dicom THEN study END AS study_instance_uid,
    CASE WHEN is_dicom THEN '1.2.840.10008.1.2.4.70' END AS transfer_syntax_uid,
    CASE WHEN is_dicom THEN ['CR', 'DX'][1 + (h % 2)::INT] END AS modality,
    upper(header_label) AS body_part_examined,
    CASE WHEN is_image THEN ['PA', 'AP', 'LL'][1 + (h % 3)::INT] END AS view_position,
    CASE WHEN is_image THEN (h % 90)::INT END AS patient_age_years,
    'Manufacturer ' || (hash(study) % 20)::VARCHAR AS manufacturer,
    'Model ' || (hash(study) % 60)::VARCHAR AS manufacturer_model_name,
    2800 AS rows, 2300 AS columns, 12 AS bits_stored, 'MONOCHROME2' AS photometric_interpretation,
    1 AS number_of_frames, $policy AS policy_id,
    CASE WHEN is_dicom THEN '{BY_MODEL}' END AS decided_by, ingested_at AS decided_at,
    '1767225600000000000-9' || format('{{:09d}}', n) AS source_state
FROM named ORDER BY n"""


class RowLake:
    """A lake that is being written."""

    def __init__(
        self, root: Path, *, objects: str = SHARED, archive: str = "/data/archive"
    ) -> None:
        """Write an empty lake.

        Args:
            root: its folder.
            objects: `SHARED`: names of a few files; `OWN`: files with their content; `NONE`.
            archive: folder or URI of the sources.
        """
        self.layout = Layout(str(root))
        write_marker(self.layout)
        record_label_set(self.layout, DEFAULT_LABELS)
        self._root, self._objects, self._archive = root, objects, archive
        self._db = duckdb.connect()
        self._db.execute("SET TimeZone = 'UTC'")
        self._model_id = read_info(BUILT_IN_MODEL).model_id
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._linked = 0
        self._file: Path | None = None
        self._folders: set[str] = set()

    def write(self, rows: int, days: int) -> None:
        """Write rows, spread over days, with their objects, history and run summaries."""
        per_day = rows // days // 100 * 100
        for number in range(days):
            day = str(FIRST_DAY + timedelta(number))
            is_stream = number >= days - STREAM_DAYS
            run_id = f"20260101T{number // 60:02}{number % 60:02}00Z-{number:08x}"
            if is_stream:
                run_id = "20260102T000000Z-0000feed"
            first = number * per_day
            table = self._rows(first, first + per_day, day, run_id)
            if self._objects != NONE:
                self._place(table)
            if is_stream:
                self._write_segments(table, day, number - (days - STREAM_DAYS))
            else:
                self._write_compacted(table, day)
            self._count(table, run_id)
        self._write_summaries()

    def _rows(self, first: int, last: int, day: str, run_id: str) -> pa.Table:
        values = {"first": first, "last": last, "day": day, "run": run_id}
        values |= {"model": self._model_id, "policy": "0123456789abcdef", "archive": self._archive}
        found = self._db.sql(_ROWS, params=values).to_arrow_table()
        columns = [
            found[f.name].cast(f.type) if f.name in found.column_names
            else pa.nulls(len(found), f.type)
            for f in SCHEMA
        ]  # fmt: skip
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def _place(self, table: pa.Table) -> None:
        is_first = pc.not_equal(table["status"], str(Status.DUPLICATE))
        contents = pc.utf8_slice_codeunits(table["source_uri"], -4 - CONTENT_BYTES, -4)
        placed = pa.table({"uri": table["object_uri"], "content": contents}).filter(is_first)
        for uri, content in zip(*(placed[n].to_pylist() for n in placed.column_names), strict=True):
            folder = uri.rpartition("/")[0]
            if folder not in self._folders:
                (self._root / folder).mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            path = f"{self._root}/{uri}"
            if self._objects == OWN or self._linked % LINKS == 0:
                self._file = Path(path)
                self._file.write_text(content)
            else:
                os.link(str(self._file), path)
            self._linked += 1

    def _write_compacted(self, table: pa.Table, day: str) -> None:
        again = pc.ends_with(table["source_uri"], "50.dcm")
        old = table.filter(again)
        self._write_history(old, day)
        run_id = table.schema.get_field_index("run_id")
        changed = pc.if_else(again, DECIDED_AGAIN, table["run_id"])
        table = table.set_column(run_id, table.schema.field("run_id"), changed)
        self._counts[DECIDED_AGAIN].update({str(Status.ROUTED): len(old)})
        _write(table, Path(self.layout.partition(day), f"part-{day}.parquet"))

    def _write_history(self, old: pa.Table, day: str) -> None:
        times = old["ingested_at"]
        superseded = [times, pa.array([DECIDED_AGAIN] * len(old), pa.string())]
        table = pa.Table.from_arrays([*old.columns, *superseded], schema=HISTORY_SCHEMA)
        _write(table, Path(self.layout.history_partition(day), f"part-{day}.parquet"))

    def _write_segments(self, table: pa.Table, day: str, number: int) -> None:
        names = ("status", "sop_instance_uid", "content_sha256")
        keys = zip(*(table[name].to_pylist() for name in names), strict=True)
        shards = pa.array([shard_of(identity_of(*key), SHARDS) for key in keys])
        for shard in range(SHARDS):
            own = table.filter(pc.equal(shards, shard))
            size = -(-len(own) // SEGMENTS)
            for position in range(SEGMENTS):
                segment = Segment(1 + number * SEGMENTS + position, day)
                rows = own.slice(position * size, size)
                run_ids = pc.binary_join_element_wise(rows["run_id"], str(segment.number), ".")
                at = rows.schema.get_field_index("run_id")
                rows = rows.set_column(at, rows.schema.field("run_id"), run_ids)
                rows = rows.replace_schema_metadata({RUN_ID_KEY: b"20260102T000000Z-0000feed"})
                _write(rows, Path(segment.uri(self.layout, LogShard(SHARDS, shard))))

    def _count(self, table: pa.Table, run_id: str) -> None:
        for value in pc.value_counts(table["status"]).to_pylist():
            self._counts[run_id][value["values"]] += value["counts"]

    def _write_summaries(self) -> None:
        for run_id, counts in self._counts.items():
            terms = {term: counts[term] for term in TERMS}
            summary = {
                "run_id": run_id, "complete": True, "kind": "route",
                "counts": {"discovered": sum(terms.values()), **terms, "failed": 0},
            }  # fmt: skip
            path = Path(self.layout.run_summary(run_id, complete=True))
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(summary))


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w+b") as file:
        write_parquet([table], file, ROW_GROUP_ROWS)


def index_files(layout: Layout) -> Iterator[Path]:
    """Yield the index files of a local lake."""
    yield from Path(layout.index).rglob("*.parquet")
