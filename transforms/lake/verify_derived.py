"""Verify the table of derived objects, and the objects themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from transforms.core.reasons import Status
from transforms.lake.databases import INSERTED_ROWS, Inserter, rows_of
from transforms.lake.derived import (
    WRITTEN,
    derived_days,
    has_derived,
    pending_derived,
    read_derived,
)
from transforms.lake.files import iter_files
from transforms.lake.index_files import DamagedFile, is_damaged
from transforms.lake.layout import DERIVED_OBJECTS, Layout
from transforms.lake.supersede import contents_to_move
from transforms.lake.verify_report import VerifyReport, Violation
from transforms.storage.base import sha256_of
from transforms.storage.schemes import join, storage_of

_CREATE = """
CREATE TABLE derived (content_sha256 VARCHAR, object_key VARCHAR, destination VARCHAR, status VARCHAR,
    object VARCHAR, sha256 VARCHAR, size BIGINT);
CREATE TABLE derived_objects (uri VARCHAR, size BIGINT);
CREATE TABLE derived_pending (object VARCHAR);
CREATE TABLE derived_moving (content_sha256 VARCHAR);
"""
_QUERIES = {
    "second derived row for one content": """
        SELECT min(object_key), '' FROM derived GROUP BY content_sha256 HAVING count(*) > 1""",
    "derived row without an object": f"""
        SELECT object_key, coalesce(object, '') FROM derived
        ANTI JOIN derived_objects ON derived.object = derived_objects.uri
        ANTI JOIN derived_pending USING (object)
        WHERE status = '{WRITTEN}'""",
    "derived object of another size": """
        SELECT object_key, object FROM derived
        JOIN derived_objects ON derived.object = derived_objects.uri
        WHERE derived.size <> derived_objects.size""",
    "derived object without a row": """
        SELECT '', uri FROM derived_objects
        ANTI JOIN derived ON derived.object = derived_objects.uri
        ANTI JOIN derived_pending ON derived_pending.object = derived_objects.uri""",
    "derived object of another decision": f"""
        SELECT object_key, coalesce(object, '') FROM derived
        ANTI JOIN (SELECT content_sha256, destination FROM rows WHERE status = '{Status.ROUTED}')
        USING (content_sha256, destination)
        ANTI JOIN derived_moving USING (content_sha256)""",
}
"""Query by kind of violation; selects an object key and the URI of a derived object, or ''."""
_WRITTEN = f"""
SELECT object_key, object, sha256 FROM derived
JOIN derived_objects ON derived.object = derived_objects.uri
WHERE status = '{WRITTEN}'"""


def verify_derived(
    db: duckdb.DuckDBPyConnection, layout: Layout, report: VerifyReport, *, deep: bool
) -> None:
    """Add the violations in derived objects to a report.

    Args:
        db: the database, which has the rows of the index.
        layout: the lake; derived objects are looked for in its roots, and where rows say.
        report: the report.
        deep: whether to read the objects and compare them with their checksums.

    Raises:
        OSError: a folder cannot be listed.
    """
    if not has_derived(layout):
        return
    db.execute(_CREATE)
    listed = (
        (found.uri, found.size)
        for root in layout.derived_roots
        for found in iter_files(join(root, DERIVED_OBJECTS))
    )
    while batch := list(itertools.islice(listed, INSERTED_ROWS)):
        _insert(db, "derived_objects", ("uri", "size"), batch)
    for day, uri in derived_days(layout).items():
        try:
            if deep and is_damaged(uri):
                report.add([Violation("derived table with other bytes", "", layout.relative(uri))])
                continue
            rows = read_derived(layout, day)
        except FileNotFoundError:
            continue  # replaced since the listing
        except DamagedFile:
            report.add([Violation("unreadable derived table", "", layout.relative(uri))])
            continue
        report.derived.update(rows["status"].to_pylist())
        _load(db, layout, rows)
    _insert(db, "derived_pending", ("object",), [(one,) for one in pending_derived(layout)])
    _insert(db, "derived_moving", ("content_sha256",), [(c,) for c in contents_to_move(layout)])
    _load_elsewhere(db)
    for kind, query in _QUERIES.items():
        report.add(Violation(kind, key, where) for key, where in rows_of(db, query))
    if deep:
        report.add(_other_bytes(db))


def _load(db: duckdb.DuckDBPyConnection, layout: Layout, rows: pa.Table) -> None:
    names = ("content_sha256", "object_key", "destination", "status", "derived_uri")
    columns = [rows[name].to_pylist() for name in (*names, "derived_sha256", "derived_size_bytes")]
    columns[4] = [None if uri is None else layout.absolute(uri) for uri in columns[4]]
    to = ("content_sha256", "object_key", "destination", "status", "object", "sha256", "size")
    _insert(db, "derived", to, list(zip(*columns, strict=True)))


def _load_elsewhere(db: duckdb.DuckDBPyConnection) -> None:
    """Look up derived objects in roots that the given policy does not have."""
    query = """
        SELECT DISTINCT object FROM derived
        ANTI JOIN derived_objects ON derived.object = derived_objects.uri WHERE object IS NOT NULL"""
    found = []
    for (uri,) in db.execute(query).fetchall():
        if (info := storage_of(uri).stat(uri)) is not None:
            found.append((uri, info.size))
    _insert(db, "derived_objects", ("uri", "size"), found)


def _other_bytes(db: duckdb.DuckDBPyConnection) -> Iterator[Violation]:
    for key, uri, sha256 in rows_of(db, _WRITTEN):
        try:
            if sha256_of(storage_of(uri), uri) != sha256:
                yield Violation("derived object with other bytes", key, uri)
        except OSError as error:
            yield Violation(f"unreadable derived object ({type(error).__name__})", key, uri)


def _insert(
    db: duckdb.DuckDBPyConnection,
    name: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    if not rows:
        return
    values = zip(*rows, strict=True)
    batch = pa.table(
        {
            column: pa.array(list(found), pa.int64() if column == "size" else pa.string())
            for column, found in zip(columns, values, strict=True)
        }
    )
    inserter = Inserter(db, name)
    inserter.add(batch)
    inserter.flush()
