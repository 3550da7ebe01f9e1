"""Write the structured reports that are missing in a lake, after decisions have changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Status
from transforms.imaging.limits import Limits
from transforms.lake.index_files import list_index, open_index_file
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import ROW_GROUP_ROWS, IndexRow, from_table
from transforms.lake.structured_reports import has_reports, list_reports
from transforms.sandbox.write_report import LIBRARY, ReportWriter, can_write_reports
from transforms.storage.schemes import storage_of

LOG = logging.getLogger(__name__)
THREADS: Final = 2
NAME_COLUMNS: Final = (
    "destination study_instance_uid series_instance_uid sop_instance_uid content_sha256".split()
)
"""Columns of which the name of a report is made."""


def write_missing_reports(
    layout: Layout, limits: Limits | None = None, *, required: bool = False
) -> int:
    """Write the reports that are missing in a lake that has reports; return their number.

    The caller holds the lake's locks. Objects that cannot be read, or from whose header no report can be
    built, are logged by their key. Idempotent.

    Args:
        layout: the lake.
        limits: resource limits of an object.
        required: whether to write reports even if the lake has none.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: a folder cannot be listed.
    """
    if not (required or has_reports(layout)):
        return 0
    return _write(layout, _rows_without_report(layout), limits)


def write_reports(layout: Layout, rows: Sequence[IndexRow]) -> int:
    """As `write_missing_reports`, but only about the objects of some current rows."""
    if not rows or not has_reports(layout):
        return 0
    return _write(layout, [[row for row in rows if row.status == Status.ROUTED]], None)


def _write(layout: Layout, batches: Iterable[Sequence[IndexRow]], limits: Limits | None) -> int:
    if not can_write_reports():
        LOG.warning(
            "structured reports about new decisions are not written: %s is not installed", LIBRARY
        )
        return 0
    writer = ReportWriter(layout, limits or Limits(), THREADS)

    def write(row: IndexRow) -> bool:
        uri = layout.absolute(str(row.object_uri))
        try:
            found = storage_of(uri).stat(uri)
            return found is not None and writer.write(row, ObjectRef.of(found))
        except (ProcessingFailure, OSError) as error:
            LOG.warning(
                "object %s: no structured report (%s)", row.object_key, type(error).__name__
            )
            return False

    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(sum(pool.map(write, rows)) for rows in batches)
    finally:
        writer.close()


def _rows_without_report(layout: Layout) -> Iterator[list[IndexRow]]:
    """Yield current routed rows whose object has no report."""
    existing = set(map(hash, list_reports(layout)))
    for uri in list_index(layout):
        with open_index_file(uri) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                table = pa.Table.from_batches([batch])
                routed = table.filter(pc.equal(table["status"], Status.ROUTED.value))
                columns = [routed[name].to_pylist() for name in NAME_COLUMNS]
                names = (layout.report_uri(*names) for names in zip(*columns, strict=True))
                missing = [n for n, name in enumerate(names) if hash(name) not in existing]
                if missing:
                    yield from_table(routed.take(missing), partition_of(uri))
