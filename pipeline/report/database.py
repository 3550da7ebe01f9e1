"""Load the rows of a report into a database on disk, so that memory does not grow with the lake.

Tables: `rows` (the rows of the report), `images` (those that are not duplicates), `baseline` (rows to
compare with, with `BASELINE_COLUMNS` only).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.labels import LabelSet
from transforms.core.reasons import Status
from transforms.lake.databases import Inserter, create_database
from transforms.lake.index_files import list_history, open_index_file, read_batches, read_index
from transforms.lake.label_sets import read_label_set
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import HISTORY_SCHEMA, PARTITION, is_of_run
from transforms.storage.temporary import private_folder

ROW_COLUMNS: Final = (
    "run_id object_key source_size_bytes content_sha256 status stage reason destination "
    "object_uri conflict predicted_label confidence prob_abdominal prob_adult_chest "
    "prob_pediatric_chest prob_spine prob_others ood_score model_id policy_id decided_by "
    "header_label header_agrees modality body_part_examined view_position patient_age_years "
    "manufacturer manufacturer_model_name sop_instance_uid probabilities "
    "shadow_label shadow_confidence shadow_model_id predicted_region predicted_region_code "
    "region_confidence left_view_label left_view_confidence right_view_label right_view_confidence"
).split()
BASELINE_COLUMNS: Final = ("run_id", "status", "destination", "confidence", "ood_score", "model_id")
"""Columns of a report. A SOP Instance UID is only kept where it is in conflict: all of them would be a
quarter of the database."""
_UID: Final = "sop_instance_uid"
_VERSION: Final = ("source_uri", "source_version")


@dataclass(frozen=True)
class Scope:
    """The rows that a report is about.

    Attributes:
        layout: the lake.
        run_id: a run, of which the rows are reported as it first wrote them; None for all current rows.
    """

    layout: Layout
    run_id: str | None = None


@dataclass
class ReportData:
    """The loaded rows of a report.

    Attributes:
        scope: which rows these are.
        db: the database.
        labels: of the lake.
        decided_again: number of rows of the run that have been superseded since.
    """

    scope: Scope
    db: duckdb.DuckDBPyConnection = field(repr=False)
    labels: LabelSet
    decided_again: int = 0

    def fetch(
        self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries."""
        result = self.db.execute(sql, parameters or None)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def one(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> dict[str, Any]:
        """Return the only row of a query."""
        (row,) = self.fetch(sql, parameters)
        return row


@contextlib.contextmanager
def open_report_data(scope: Scope, baseline: Scope | None = None) -> Iterator[ReportData]:
    """Load the rows of a report, while runs may write to the lake.

    Args:
        scope: the rows of the report.
        baseline: rows to compare with. If it is None, a run is compared with the rows of its lake that
            were ingested before it.

    Yields:
        The data, until the context ends.

    Raises:
        DamagedFile: a file of the index or history cannot be read.
        OSError: a folder of the lake cannot be listed.
    """
    with private_folder() as folder:
        db = create_database(folder / "report.duckdb")
        try:
            _create(db, "rows", [*ROW_COLUMNS, *_VERSION, "ingested_at", "superseded_at"])
            _create(db, "baseline", [*BASELINE_COLUMNS, "ingested_at"])
            _load_index(db, scope, with_earlier=baseline is None and scope.run_id is not None)
            data = ReportData(scope, db, read_label_set(scope.layout))
            if scope.run_id is not None:
                _load_history(db, scope)
                data.decided_again = _keep_first_states(db, scope)
            if baseline is not None:
                _load_baseline(db, baseline)
            db.execute(f"CREATE VIEW images AS FROM rows WHERE status <> '{Status.DUPLICATE}'")
            yield data
        finally:
            db.close()


def _create(db: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str]) -> None:
    empty = pa.schema([_field(column) for column in [*columns, PARTITION]]).empty_table()
    db.register("empty", empty)
    db.execute(f"CREATE TABLE {name} AS FROM empty")
    db.unregister("empty")


def _field(column: str) -> pa.Field:
    if column == PARTITION:
        return pa.field(PARTITION, pa.string())
    return HISTORY_SCHEMA.field(column).remove_metadata()


def _with_day(table: pa.Table, ingest_date: str) -> pa.Table:
    days = pa.repeat(pa.scalar(ingest_date, pa.string()), len(table))
    return table.append_column(PARTITION, days)


def _read(uri: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    with open_index_file(uri) as file:
        for table in read_batches(file, columns):
            if (at := table.schema.get_field_index(_UID)) >= 0:
                kept = pc.if_else(table["conflict"], table[_UID], pa.scalar(None, pa.string()))
                table = table.set_column(at, _UID, kept)
            yield table


def _load_index(db: duckdb.DuckDBPyConnection, scope: Scope, *, with_earlier: bool) -> None:
    columns = [*ROW_COLUMNS]
    if scope.run_id is not None:
        columns += [*_VERSION, "ingested_at"]

    def load(files: Sequence[str]) -> None:
        db.execute("DELETE FROM rows")
        db.execute("DELETE FROM baseline")
        rows, earlier = Inserter(db, "rows"), Inserter(db, "baseline")
        for uri in files:
            day = partition_of(uri)
            for table in _read(uri, columns):
                if scope.run_id is None:
                    rows.add(_with_day(table, day))
                    continue
                own = is_of_run(table["run_id"], scope.run_id)
                rows.add(_with_day(table.filter(own), day))
                if with_earlier:
                    others = table.filter(pc.invert(own))
                    earlier.add(_with_day(others.select([*BASELINE_COLUMNS, "ingested_at"]), day))
        rows.flush()
        earlier.flush()

    read_index(scope.layout, load)
    if with_earlier:
        db.execute(
            "DELETE FROM baseline WHERE ingested_at >= coalesce((SELECT min(ingested_at) FROM rows), "
            "'infinity'::TIMESTAMPTZ)"
        )


def _load_history(db: duckdb.DuckDBPyConnection, scope: Scope) -> None:
    columns = [*ROW_COLUMNS, *_VERSION, "ingested_at", "superseded_at"]

    def load(files: Sequence[str]) -> None:
        db.execute("DELETE FROM rows WHERE superseded_at IS NOT NULL")
        rows = Inserter(db, "rows")
        for uri in files:
            for table in _read(uri, columns):
                own = is_of_run(table["run_id"], str(scope.run_id))
                rows.add(_with_day(table.filter(own), partition_of(uri)))
        rows.flush()

    read_index(scope.layout, load, list_history)


def _keep_first_states(db: duckdb.DuckDBPyConnection, scope: Scope) -> int:
    """Keep the first state of each row of a run, at the place where its object is now.

    Returns:
        The number of rows that are superseded.
    """
    db.execute("""
        CREATE TABLE first_states AS FROM rows QUALIFY 1 = row_number() OVER (
            PARTITION BY source_uri, source_version ORDER BY superseded_at NULLS LAST)""")
    db.execute("DROP TABLE rows")
    db.execute("ALTER TABLE first_states RENAME TO rows")
    (superseded,) = db.execute(
        "SELECT count(*) FROM rows WHERE superseded_at IS NOT NULL"
    ).fetchall()[0]
    if superseded:
        _follow_moves(db, scope.layout)
    return int(superseded)


def _follow_moves(db: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Set `object_uri` of superseded rows to that of the current row of the same source version."""
    keys = db.execute("SELECT object_key FROM rows WHERE superseded_at IS NOT NULL").fetchall()
    wanted = pa.array([key for (key,) in keys], pa.string())
    columns = ["object_key", *_VERSION, "object_uri"]

    def read(files: Sequence[str]) -> list[pa.Table]:
        return [
            table.filter(pc.is_in(table["object_key"], value_set=wanted))
            for uri in files
            for table in _read(uri, columns)
        ]

    if tables := read_index(layout, read):
        db.register("current_rows", pa.concat_tables(tables))
        db.execute("""
            UPDATE rows SET object_uri = current_rows.object_uri FROM current_rows
            WHERE superseded_at IS NOT NULL AND rows.source_uri = current_rows.source_uri
                AND rows.source_version = current_rows.source_version""")
        db.unregister("current_rows")


def _load_baseline(db: duckdb.DuckDBPyConnection, baseline: Scope) -> None:
    def load(files: Sequence[str]) -> None:
        db.execute("DELETE FROM baseline")
        rows = Inserter(db, "baseline")
        for uri in files:
            for table in _read(uri, [*BASELINE_COLUMNS, "ingested_at"]):
                if baseline.run_id is not None:
                    table = table.filter(is_of_run(table["run_id"], baseline.run_id))
                rows.add(_with_day(table, partition_of(uri)))
        rows.flush()

    read_index(baseline.layout, load)
