"""Migration of a lake of format 1, which has no `lake.json`, to format 2; safe to kill at every step.

Partition by partition, rows get the columns of format 2 and names relative to the lake. Then rows that
a later model superseded move to the history, with the objects that only they name removed. The marker
is written last: until then the lake is of format 1, and a repeat goes on.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import BY_MODEL, BY_POLICY, DECIDED_BY_POLICY, Status
from transforms.lake.files import exists
from transforms.lake.index_files import batches, list_index, readable
from transforms.lake.layout import Layout, is_relative, partition_of
from transforms.lake.marker import FORMAT, format_of, write_marker
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_notes import finish_rewrites
from transforms.lake.schema import (
    DECIDED_COLUMNS,
    ROW_GROUP_ROWS,
    SCHEMA,
    IndexRow,
    conform,
)
from transforms.lake.supersede import Change, apply, regroup, rows_of_identities, version_of

MIGRATION: Final = "migration"
"""Stands for a run in `superseded_by`."""
_ROOTED: Final = ("objects", "quarantine")


def migrate(layout: Layout) -> bool:
    """Bring a lake of format 1 to format 2; returns whether there was anything to do.

    Hold the lake's locks.

    Raises:
        DamagedFile: an index file cannot be read; its partition is unchanged.
        ProcessingFailure: the lake's storage refused.
        ForeignLake: as `write_marker`.
    """
    found = format_of(layout)
    if found == FORMAT:
        return False
    if found is not None:
        finish_rewrites(layout)
        for day, files in sorted(_outdated_partitions(layout).items()):
            rewrite(layout, day, files, _tables(layout, files))
        _supersede_earlier_models(layout)
    write_marker(layout)
    return found is not None


def _outdated_partitions(layout: Layout) -> dict[str, list[str]]:
    """Return the index files of the release before, by partition."""
    partitions: dict[str, list[str]] = defaultdict(list)
    for uri in list_index(layout):
        with readable(uri) as file:
            if not set(DECIDED_COLUMNS) <= set(file.schema_arrow.names):
                partitions[partition_of(uri)].append(uri)
    return partitions


def _tables(layout: Layout, files: Sequence[str]) -> Iterator[pa.Table]:
    for uri in files:
        with readable(uri) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                yield _converted(pa.Table.from_batches([batch]), layout)


def _converted(rows: pa.Table, layout: Layout) -> pa.Table:
    """Return rows with the columns of format 2, those that can be told filled in."""
    table = conform(rows).replace_schema_metadata(None)
    names = [_relative(uri, layout) for uri in table["object_uri"].to_pylist()]
    deciders = [
        decider_of(status, reason)
        for status, reason in zip(
            table["status"].to_pylist(), table["reason"].to_pylist(), strict=True
        )
    ]
    for name, values in (
        ("object_uri", pa.array(names, pa.string())),
        ("decided_by", pa.array(deciders, pa.string())),
        ("decided_at", table["ingested_at"]),
    ):
        position = SCHEMA.get_field_index(name)
        table = table.set_column(position, SCHEMA.field(name), values)
    return table


def decider_of(status: str | None, reason: str | None) -> str | None:
    """Return what a row of format 1 was decided by; see the column `decided_by`."""
    if status == Status.QUARANTINED:
        return None
    return BY_POLICY if status == Status.NOT_XRAY or reason in DECIDED_BY_POLICY else BY_MODEL


def _relative(uri: str | None, layout: Layout) -> str | None:
    """Return an object's name relative to the lake, also where the lake was moved since."""
    if uri is None or is_relative(uri):
        return uri
    if (name := layout.relative(uri)) != uri:
        return name
    for part in _ROOTED:
        _, found, rest = uri.rpartition(f"/{part}/")
        if found and exists(layout.absolute(f"{part}/{rest}")) and not exists(uri):
            return f"{part}/{rest}"
    return uri


def _supersede_earlier_models(layout: Layout) -> None:
    """Leave one current row for each version of a source: the one that was ingested last."""
    identities = _identities_decided_twice(layout)
    if not identities:
        return
    rows = rows_of_identities(layout, identities)
    latest: dict[tuple[str, str], IndexRow] = {}
    for row in sorted(rows, key=lambda r: (r.ingested_at, r.run_id)):
        latest[version_of(row)] = row
    kept = set(map(id, latest.values()))
    changes = [Change(row, None) for row in rows if id(row) not in kept]
    apply(layout, [*changes, *regroup(latest.values(), {})], MIGRATION)


def _identities_decided_twice(layout: Layout) -> set[str]:
    """Return the identities of versions of sources that have more than one row."""
    import duckdb

    columns = ["source_uri", "source_version", "sop_instance_uid", "content_sha256", "status"]
    with tempfile.TemporaryDirectory(prefix="dicom-router-migration-") as folder:
        tables = duckdb.connect(Path(folder) / "migration.duckdb")
        try:
            tables.execute("CREATE TABLE versions (version UHUGEINT, identity VARCHAR)")
            for uri in list_index(layout):
                with readable(uri) as file:
                    for batch in batches(file, columns):
                        tables.register("batch", batch.append_column("identity", _identity(batch)))
                        tables.execute(
                            "INSERT INTO versions SELECT "
                            "md5_number(source_uri || chr(0) || source_version), identity FROM batch"
                        )
                        tables.unregister("batch")
            found = tables.execute(
                "SELECT DISTINCT identity FROM versions WHERE version IN "
                "(SELECT version FROM versions GROUP BY version HAVING count(*) > 1)"
            ).fetchall()
        finally:
            tables.close()
    return {identity for (identity,) in found}


def _identity(rows: pa.Table) -> pa.Array:
    uid = pc.if_else(pc.equal(rows["sop_instance_uid"], ""), None, rows["sop_instance_uid"])
    own = pc.coalesce(uid, rows["content_sha256"])
    is_quarantined = pc.fill_null(pc.equal(rows["status"], str(Status.QUARANTINED)), False)
    return pc.if_else(is_quarantined, rows["content_sha256"], own)
