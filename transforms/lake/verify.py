"""Verify a lake against the delivery contract, without its sources.

Index, history and a listing of the objects are loaded into a database on disk, so that memory does not
grow with the lake. Each kind of violation is one query.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.worker_resources import processors
from transforms.lake import verify_queries as queries
from transforms.lake.databases import (
    LOADING_MEMORY,
    Inserter,
    create_database,
    limit_memory,
    rows_of,
)
from transforms.lake.erase import list_erasure_intents, unfinished_erasures
from transforms.lake.files import exists, iter_files, list_files
from transforms.lake.index_files import (
    DamagedFile,
    is_damaged,
    list_history,
    open_index_file,
    read_batches,
    read_index,
)
from transforms.lake.journal import list_journal, read_journal
from transforms.lake.layout import REPORTS, Layout
from transforms.lake.marker import require_lake
from transforms.lake.schema import PARTITION, missing_columns
from transforms.lake.structured_reports import list_reports
from transforms.lake.supersede import list_supersede_intents, objects_to_remove
from transforms.lake.verify_content_tables import check_content_tables
from transforms.lake.verify_derived import verify_derived
from transforms.lake.verify_forgotten import check_forgotten
from transforms.lake.verify_labels import check_label_files, unknown_images
from transforms.lake.verify_report import VerifyReport, Violation
from transforms.lake.verify_runs import check_runs
from transforms.lake.verify_tables import check_tables
from transforms.storage.base import UNKNOWN_SIZE, sha256_of
from transforms.storage.local import is_version_of, path_to_uri, uri_to_path
from transforms.storage.schemes import is_local, join, storage_of
from transforms.storage.temporary import private_folder

T = TypeVar("T")

BATCH_ROWS: Final = 65_536
TASK_ROWS: Final = 64
"""Rows that a thread checks one after the other."""
THREADS: Final = min(32, 4 * processors())
OTHER_BYTES: Final = "index file with other bytes"
EXTERNAL: Final = "(outside the lake)"
"""Replaces the URI of an object outside the lake, which may contain patient data."""


Progress = Callable[[str, int], None]
"""Called with the kind of items being read, and their number so far."""


def verify_lake(
    layout: Layout, *, deep: bool = False, progress: Progress = lambda what, number: None
) -> VerifyReport:
    """Verify a lake, to which runs may write at the same time.

    Args:
        layout: the lake and its sinks.
        deep: whether to read every byte of objects and index files, and compare it with checksums.
        progress: called repeatedly.

    Raises:
        NotALake: there is no lake.
        ForeignLake: the lake has the format of a later release.
        OSError: a folder of the lake cannot be listed.
    """
    layout = layout.canonical()
    report = VerifyReport(format=require_lake(layout))
    report.journal_files = sum(
        map(
            len,
            (list_journal(layout), list_supersede_intents(layout), list_erasure_intents(layout)),
        )
    )
    with private_folder() as folder:
        db = create_database(folder / "verify.duckdb", LOADING_MEMORY)
        try:
            db.execute(queries.CREATE_TABLES)
            # In the reverse order of a run: it writes an object to the journal before it places it, and
            # its row to the index before it clears the journal and writes the summary; and it writes an
            # intent to the journal before it removes rows and objects. Answers are about rows.
            summaries = list_files(layout.runs, ".json")
            labels = check_label_files(layout, deep=deep)
            _load_objects(db, layout, report, progress)
            _load_reports(db, layout)
            _load_journal(db, layout)
            report.rows = _load_rows(db, "rows", layout, report, progress, deep=deep)
            report.superseded_rows = _load_rows(
                db, "history", layout, report, progress, list_history, deep=deep
            )
            _load_journal(db, layout)
            limit_memory(db)
            _run_queries(db, report)
            _check_objects(db, report, deep=deep)
            check_runs(db, layout, report, summaries, check_forgotten(layout, report, deep=deep))
            check_content_tables(layout, report, deep=deep)
            verify_derived(db, layout, report, deep=deep)
            report.labels = len(labels.labels)
            report.add(itertools.chain(labels.violations, check_tables(layout)))
            report.add(unknown_images(db, labels.labels.values()))
            if deep:
                _check_journal(layout, report)
            _check_bytes(
                db, queries.STORED_OBJECTS if deep else queries.CHANGED_LINKS, report, progress
            )
        finally:
            db.close()
    report.temporary_files = sum(
        len(list_files(layout.scratch(sink))) for sink in (None, *layout.sinks)
    )
    return report


def _load_rows(
    db: duckdb.DuckDBPyConnection,
    table: str,
    layout: Layout,
    report: VerifyReport,
    progress: Progress,
    listed: Callable[[Layout], list[str]] | None = None,
    *,
    deep: bool,
) -> int:
    """Load rows into a table of the database; return their number. Arguments as those of `read_index`."""

    def load(files: Sequence[str]) -> tuple[int, list[Violation]]:
        db.execute(f"DELETE FROM {table}")
        number, violations = 0, list[Violation]()
        rows = Inserter(db, table)
        for uri in files:
            number += _load_file(rows, uri, layout, violations, deep=deep)
            progress("rows", number)
        rows.flush()
        return number, violations

    number, violations = read_index(layout, load, listed)
    report.add(violations)
    return number


def _load_file(
    rows: Inserter,
    uri: str,
    layout: Layout,
    violations: list[Violation],
    *,
    deep: bool,
) -> int:
    """Load a Parquet file into a table of the database; return the number of rows.

    Args:
        rows: inserts into that table.
        uri: the file.
        layout: the lake.
        violations: list to which violations are added.
        deep: whether to compare the file with its checksum first, and not to load one that differs.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    number = 0
    try:
        if deep and is_damaged(uri):
            violations.append(Violation(OTHER_BYTES, "", layout.relative(uri)))
            return 0
        with open_index_file(uri) as file:
            if missing := missing_columns([*file.schema_arrow.names, PARTITION]):
                where = f"{layout.relative(uri)}: {', '.join(missing)}"
                violations.append(Violation("columns missing in an index file", "", where))
            for batch in read_batches(file, queries.ROW_COLUMNS):
                rows.add(_with_location(batch, layout))
                number += len(batch)
    except DamagedFile:
        violations.append(Violation("unreadable index file", "", layout.relative(uri)))
    return number


def _with_location(rows: pa.Table, layout: Layout) -> pa.Table:
    """Make object URIs absolute, and add the columns `object`, the URI in a listing, and `inside`."""
    position = rows.column_names.index("object_uri")
    uris = rows["object_uri"].combine_chunks()
    is_absolute = pc.or_(pc.starts_with(uris, "/"), pc.match_substring(uris, "://"))
    own = pc.binary_join_element_wise(layout.root.rstrip("/"), uris, "/")
    kept = uris.filter(is_absolute).to_pylist()  # few, except if objects are only indexed
    listed = [_listed_uri(uri, layout) for uri in kept]
    inside = [layout.contains(uri) for uri in listed]
    mask = pc.fill_null(is_absolute, False)
    present = pc.is_valid(uris)
    return (
        rows.set_column(
            position, "object_uri", pc.replace_with_mask(own, mask, pa.array(kept, pa.string()))
        )
        .append_column("object", pc.replace_with_mask(own, mask, pa.array(listed, pa.string())))
        .append_column("inside", pc.replace_with_mask(present, mask, pa.array(inside, pa.bool_())))
    )


def _listed_uri(uri: str, layout: Layout) -> str:
    """Return the URI that an object has in a listing; rows of format 1 may have symbolic links in it."""
    if layout.contains(uri) or not is_local(uri):
        return uri
    return path_to_uri(os.path.realpath(uri_to_path(uri)))


def _load_journal(db: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Load the objects that a running or interrupted run may have placed or is about to remove."""
    objects = Inserter(db, "journal")
    for uri in list_journal(layout):
        with contextlib.suppress(DamagedFile, FileNotFoundError):  # removed since the listing
            uris = [entry.row.object_uri for entry in read_journal(uri, layout)]
            objects.add(_absolute(uris, layout))
    objects.add(_absolute(objects_to_remove(layout), layout))
    for intent in unfinished_erasures(layout):
        objects.add(_absolute(intent.objects, layout))
    objects.flush()


def _absolute(object_uris: Iterable[str | None], layout: Layout) -> pa.Table:
    uris = [layout.absolute(str(uri)) for uri in object_uris]
    return pa.table({"object": pa.array(uris, pa.string())})


def _load_objects(
    db: duckdb.DuckDBPyConnection, layout: Layout, report: VerifyReport, progress: Progress
) -> None:
    listed = itertools.chain.from_iterable(
        iter_files(join(root, part))
        for root in layout.object_roots
        for part in ("objects", "quarantine")
    )
    objects = Inserter(db, "objects")
    for batch in _batched(listed, BATCH_ROWS):
        columns = {
            "uri": pa.array([f.uri for f in batch], pa.string()),
            "size": pa.array([f.size for f in batch], pa.int64()),
            "version": pa.array([f.version for f in batch], pa.string()),
            "state": pa.array([f.state for f in batch], pa.string()),
        }
        objects.add(pa.table(columns))
        report.objects += len(batch)
        progress("objects", report.objects)
    objects.flush()


def _load_reports(db: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Load the structured reports, with the names of the objects that they are about."""
    reports = Inserter(db, "reports")
    for batch in _batched(list_reports(layout), BATCH_ROWS):
        names = [uri.rpartition(f"/{REPORTS}/")[2] for uri in batch]
        reports.add(pa.table({"uri": batch, "name": names}))
    reports.flush()


def _run_queries(db: duckdb.DuckDBPyConnection, report: VerifyReport) -> None:
    by_format = queries.SECOND_ROW if report.format > 1 else queries.SECOND_ROW_FORMAT_1
    for kind, query in {**queries.VIOLATIONS, "second row for one source": by_format}.items():
        report.add(Violation(kind, key, where) for key, where in rows_of(db, query))
    report.conflicts = [uid for (uid,) in db.execute(queries.CONFLICTS).fetchall()]


def _check_objects(db: duckdb.DuckDBPyConnection, report: VerifyReport, *, deep: bool) -> None:
    """Look up referenced objects that were not listed, and again listed objects without a row.

    The former are in sinks that the given policy does not have, are only indexed, or were placed after
    the listing. The latter may have been removed since.
    """
    report.add(_in_threads(db, queries.UNLISTED_OBJECTS, partial(_check_unlisted, deep=deep)))
    for kind, query in (
        ("object without a row", queries.UNREFERENCED_OBJECTS),
        ("structured report about an object that is not routed", queries.UNREFERENCED_REPORTS),
    ):
        report.add(_in_threads(db, query, partial(_check_unreferenced, kind=kind)))


def _check_unlisted(row: tuple[Any, ...], *, deep: bool) -> Violation | None:
    key, uri, size, inside, version, state, sha256 = row
    where = uri if inside else EXTERNAL
    try:
        info = storage_of(uri).stat(uri)
        if info is None:
            return Violation("missing object", key, where)
        if info.size not in (size, UNKNOWN_SIZE):
            return Violation("object of another size", key, where)
        has_state = state is None or info.state == state
        if (
            (deep and not inside)  # its bytes are compared later
            or version is None
            or not is_local(uri)
            or (has_state and is_version_of(version, info.version))
        ):
            return None
        if sha256_of(storage_of(uri), uri) != sha256:
            return Violation("object with other bytes", key, where)
    except (OSError, ValueError) as error:
        return Violation(f"unreadable object ({type(error).__name__})", key, where)
    return None


def _check_unreferenced(row: tuple[Any, ...], kind: str) -> Violation | None:
    (uri,) = row
    return Violation(kind, "", uri) if exists(uri) else None


def _check_bytes(
    db: duckdb.DuckDBPyConnection, query: str, report: VerifyReport, progress: Progress
) -> None:
    """Read the objects that a query selects, and compare them with the sha256 of their rows."""
    numbers = itertools.count(1)

    def check(row: tuple[Any, ...]) -> Violation | None:
        key, uri, sha256, inside = row
        where = uri if inside else EXTERNAL
        try:
            is_same = sha256_of(storage_of(uri), uri) == sha256
        except OSError as error:
            if not inside and not _has_status(uri):
                return None  # `_check_unlisted` has found it
            return Violation(f"unreadable object ({type(error).__name__})", key, where)
        progress("objects read", next(numbers))
        return None if is_same else Violation("object with other bytes", key, where)

    report.add(_in_threads(db, query, check))


def _has_status(uri: str) -> bool:
    try:
        storage_of(uri).stat(uri)
    except OSError:
        return False
    return True


def _check_journal(layout: Layout, report: VerifyReport) -> None:
    """Compare journal files with their checksums."""
    for uri in list_journal(layout):
        with contextlib.suppress(FileNotFoundError):  # removed since the listing
            if is_damaged(uri):
                where = layout.relative(uri)
                report.add([Violation(OTHER_BYTES, "", where)])


def _in_threads(
    db: duckdb.DuckDBPyConnection,
    query: str,
    check: Callable[[tuple[Any, ...]], Violation | None],
) -> Iterator[Violation]:
    """Yield the violations that a check finds in the rows of a query; threads overlap storage latency."""

    def check_all(rows: Sequence[tuple[Any, ...]]) -> list[Violation]:
        return [found for row in rows if (found := check(row)) is not None]

    tasks = _batched(rows_of(db, query), TASK_ROWS)
    with ThreadPoolExecutor(THREADS) as pool:
        for some in _batched(tasks, 2 * THREADS):
            yield from itertools.chain.from_iterable(pool.map(check_all, some))


def _batched(listed: Iterable[T], number: int) -> Iterator[list[T]]:
    iterator = iter(listed)
    while batch := list(itertools.islice(iterator, number)):
        yield batch
