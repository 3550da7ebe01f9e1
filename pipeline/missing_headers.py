"""Write the headers that a lake lacks, from its stored objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import QUARANTINE_REASONS, Reason, Status
from transforms.core.worker_resources import processors
from transforms.lake.content_tables import CONTENT, Row, list_table, write_rows
from transforms.lake.digest_set import DigestSet, digests_of
from transforms.lake.headers import HEADERS
from transforms.lake.index_files import open_index_file
from transforms.lake.layout import Layout
from transforms.lake.schema import PARTITION
from transforms.lake.select_rows import SelectedRows
from transforms.sandbox.child_pool import ChildPool
from transforms.sandbox.read_header import HeaderOptions, read_stored_header

FILE_ROWS: Final = 4_096
"""Headers in memory together, which become a file; `compact` merges files."""


@dataclass
class WrittenHeaders:
    """Result of `write_missing_headers`.

    Attributes:
        written: number of headers.
        unreadable: reason by object key of objects whose header cannot be parsed.
        failed: reason by object key of objects that could not be read.
    """

    written: int = 0
    unreadable: dict[str, Reason] = field(default_factory=dict)
    failed: dict[str, Reason] = field(default_factory=dict)


def write_missing_headers(
    layout: Layout,
    options: HeaderOptions,
    patient_key: bytes | None,
    reading_identities: Callable[[list[Row]], object],
) -> WrittenHeaders:
    """Write the header of each content that has a row in the index and none in `headers/`. Idempotent.

    The caller holds the lake's locks. What was written before an interruption is not read again.

    Args:
        layout: the lake.
        options: which attributes.
        patient_key: key of the hash of identifiers, or None.
        reading_identities: called before Patient IDs are read, if there is a key, with the numbers of
            objects by study, patient and SOP class, in this order.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
        OSError: a folder cannot be listed.
    """
    result, threads = WrittenHeaders(), processors()
    children = ChildPool(threads, options.limits)

    def read(row: Row) -> str | Reason:
        uri = layout.absolute(row["object_uri"])
        with children.child() as child:
            return read_stored_header(uri, row[CONTENT], options, patient_key, child)

    try:
        with ThreadPoolExecutor(threads) as pool:
            for day, rows in _missing(layout):
                if patient_key is not None:
                    reading_identities(_groups(rows))
                found = []
                for row, header in zip(rows, pool.map(read, rows), strict=True):
                    if not isinstance(header, Reason):
                        found.append({**row, "header": header})
                    elif header in QUARANTINE_REASONS:
                        result.unreadable[row["object_key"]] = header
                    else:
                        result.failed[row["object_key"]] = header
                write_rows(layout, HEADERS, day, found)
                result.written += len(found)
    finally:
        children.close()
    return result


def _groups(rows: list[Row]) -> list[Row]:
    """Return the numbers of rows by study, patient and SOP class, in this order."""
    names = ("study_instance_uid", "patient_key", "sop_class_uid")
    counts = Counter(itemgetter(*names)(row) for row in rows)
    ordered = sorted(counts.items(), key=lambda item: [str(value) for value in item[0]])
    return [{**dict(zip(names, key, strict=True)), "number": number} for key, number in ordered]


def _missing(layout: Layout) -> Iterator[tuple[str, list[Row]]]:
    """Yield rows of the index without a header, each content once, with their partition."""
    known = _stored(layout)
    columns = [
        *(n for n in HEADERS.schema.names if n != "header"),
        "object_uri",
        "status",
        PARTITION,
    ]
    day = ""
    rows: list[Row] = []
    for batch in SelectedRows(layout, columns).batches():
        has_uids = pc.is_valid(batch["sop_instance_uid"])
        is_first = pc.not_equal(batch["status"], Status.DUPLICATE.value)
        firsts = batch.filter(pc.and_(has_uids, is_first))
        is_new = known.add_new(digests_of(firsts[CONTENT].to_pylist()))
        for row in firsts.filter(pa.array(is_new)).to_pylist():
            if rows and (row[PARTITION] != day or len(rows) == FILE_ROWS):
                yield day, rows
                rows = []
            day = row[PARTITION]
            rows.append(row)
    if rows:
        yield day, rows


def _stored(layout: Layout) -> DigestSet:
    """Return the contents that have a header."""
    found = DigestSet()
    for info in list_table(layout, HEADERS):
        with open_index_file(info.uri) as file:
            for batch in file.iter_batches(columns=[CONTENT]):
                found.add(digests_of(batch.column(CONTENT).to_pylist()))
    return found
