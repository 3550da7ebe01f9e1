"""Open a lake for writing, and migrate a lake of format 1 to format 2; safe to kill at every step.

The migration rewrites each partition with the columns of format 2 and object URIs relative to the lake.
Then it moves rows that a later model superseded to the history, and removes objects that only they
reference. The marker is written last: until then the lake has format 1, and the next call continues.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pyarrow as pa

from transforms.core.reasons import BY_MODEL, BY_POLICY, DECIDED_BY_POLICY, Status
from transforms.lake.databases import create_database
from transforms.lake.erase import finish_erasures
from transforms.lake.files import exists
from transforms.lake.index_files import list_index, open_index_file, read_batches, read_unified
from transforms.lake.layout import Layout, is_relative, partition_of
from transforms.lake.marker import FORMAT, format_of, write_marker
from transforms.lake.published_tables import keep_in_step
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_intents import finish_rewrites
from transforms.lake.schema import (
    FORMAT_2_COLUMNS,
    IDENTITY_SQL,
    SCHEMA,
    VERSION_HASH_SQL,
)
from transforms.lake.supersede import (
    RowChange,
    apply_changes,
    finish_supersedes,
    resolve_changes,
    rows_of_identities,
)
from transforms.storage.temporary import private_folder

MIGRATION: Final = "migration"
"""Value of `superseded_by` for rows that the migration moves to the history."""
_OBJECT_FOLDERS: Final = ("objects", "quarantine")


def open_lake(layout: Layout) -> None:
    """Make a lake ready for writing: create or migrate it, claim its roots, finish rewrites and erasures.

    Published tables that a killed process has left behind are brought into step.

    Idempotent. The caller holds the lake's locks.

    Raises:
        ForeignLake: the lake has the format of a later release, or a root belongs to another lake.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    migrate(layout)
    write_marker(layout)  # claims the sinks that are new in the policy
    finish_rewrites(layout)
    finish_erasures(layout)
    keep_in_step(layout)


def migrate(layout: Layout) -> bool:
    """Migrate a lake of format 1 to format 2, or create a lake.

    The caller holds the lake's locks.

    Returns:
        Whether a lake was migrated.

    Raises:
        DamagedFile: an index file cannot be read; its partition is unchanged.
        ProcessingFailure: the lake's storage refused a write.
        ForeignLake: as `write_marker`.
    """
    lake_format = format_of(layout)
    if lake_format == FORMAT:
        return False
    if lake_format is not None:
        finish_rewrites(layout)
        for day, files in sorted(_outdated_partitions(layout).items()):
            tables = (_converted(table, layout) for table in read_unified(files))
            rewrite(layout, day, files, tables)
        finish_supersedes(layout)
        _supersede_earlier_models(layout)
    write_marker(layout)
    return lake_format is not None


def _outdated_partitions(layout: Layout) -> dict[str, list[str]]:
    """Return the index files that lack columns of format 2, by partition."""
    partitions: dict[str, list[str]] = defaultdict(list)
    for uri in list_index(layout):
        with open_index_file(uri) as file:
            if not set(FORMAT_2_COLUMNS) <= set(file.schema_arrow.names):
                partitions[partition_of(uri)].append(uri)
    return partitions


def _converted(table: pa.Table, layout: Layout) -> pa.Table:
    """Return rows with the columns of format 2; columns that cannot be derived are null."""
    uris = [
        uri if uri == source else _relative(uri, layout)
        for uri, source in zip(
            table["object_uri"].to_pylist(), table["source_uri"].to_pylist(), strict=True
        )
    ]
    deciders = [
        decider_of(status, reason)
        for status, reason in zip(
            table["status"].to_pylist(), table["reason"].to_pylist(), strict=True
        )
    ]
    for name, values in (
        ("object_uri", pa.array(uris, pa.string())),
        ("decided_by", pa.array(deciders, pa.string())),
        ("decided_at", table["ingested_at"]),
    ):
        position = SCHEMA.get_field_index(name)
        table = table.set_column(position, SCHEMA.field(name), values)
    return table


def decider_of(status: str | None, reason: str | None) -> str | None:
    """Return the value of the column `decided_by` for a row of format 1."""
    if status == Status.QUARANTINED:
        return None
    return BY_POLICY if status == Status.NOT_XRAY or reason in DECIDED_BY_POLICY else BY_MODEL


def _relative(uri: str | None, layout: Layout) -> str | None:
    """Return an object URI relative to the lake, even if the lake has been moved or copied."""
    if uri is None or is_relative(uri):
        return uri
    if layout.contains(uri):
        return layout.relative(uri)
    for folder in _OBJECT_FOLDERS:
        _, separator, rest = uri.rpartition(f"/{folder}/")
        if separator and exists(layout.absolute(f"{folder}/{rest}")):
            return f"{folder}/{rest}"
    return uri


def _supersede_earlier_models(layout: Layout) -> None:
    """Keep one current row for each source version, the one ingested last."""
    identities = _identities_decided_twice(layout)
    if not identities:
        return
    rows = rows_of_identities(layout, identities)
    latest = {r.version_key: r for r in sorted(rows, key=lambda r: (r.ingested_at, r.run_id))}
    kept = set(map(id, latest.values()))
    changes = [RowChange(row, None) for row in rows if id(row) not in kept]
    apply_changes(layout, [*changes, *resolve_changes(latest.values(), {})], MIGRATION)


def _identities_decided_twice(layout: Layout) -> set[str]:
    """Return the identities of source versions that have more than one row."""
    columns = ["source_uri", "source_version", "sop_instance_uid", "content_sha256", "status"]
    with private_folder() as folder:
        db = create_database(folder / "migration.duckdb")
        try:
            db.execute("CREATE TABLE versions (version UHUGEINT, identity VARCHAR)")
            for uri in list_index(layout):
                with open_index_file(uri) as file:
                    for batch in read_batches(file, columns):
                        db.register("batch", batch)
                        db.execute(
                            "INSERT INTO versions "
                            f"SELECT {VERSION_HASH_SQL}, {IDENTITY_SQL} FROM batch"
                        )
                        db.unregister("batch")
            identities = db.execute(
                "SELECT DISTINCT identity FROM versions WHERE version IN "
                "(SELECT version FROM versions GROUP BY version HAVING count(*) > 1)"
            ).fetchall()
        finally:
            db.close()
    return {identity for (identity,) in identities}
