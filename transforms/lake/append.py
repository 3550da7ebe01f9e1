"""Append placed rows to the index: each row once, even if several writers try to append it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake.append_log import (
    LogEnd,
    LogShard,
    Segment,
    last_segments,
    next_segment,
    partition_for,
)
from transforms.lake.files import put_bytes
from transforms.lake.index_files import (
    NEXT_PARTITION_KEY,
    RUN_ID_KEY,
    list_index,
    parquet_bytes,
    read_metadata,
)
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.schema import RUN_ID_SEPARATOR, IndexRow, decision_order, to_table
from transforms.storage.processes import boottime

MAX_ATTEMPTS: Final = 1000
MAX_VIEW_AGE_S: Final = 60.0
"""Maximum age of a writer's view of the index, in seconds. A writer that was suspended longer reads the
index again: its segment number may be free because a rewrite has removed the segment."""


class ConcurrentWriteError(RuntimeError):
    """Another run has written to the lake since this run started."""


@dataclass(frozen=True)
class AppendResult:
    """Result of `append`.

    Attributes:
        rows: the rows written, as they are in the index.
        existing: number of rows dropped because the index already has a row of their version.
    """

    rows: list[IndexRow]
    existing: int


def append(
    layout: Layout, replica: IndexReplica, log: LogShard, rows: Sequence[IndexRow]
) -> AppendResult:
    """Resolve duplicates among rows and append the rows that the index lacks to a log.

    The run id of a written row is that of the run that writes it, a dot, and the segment number.

    Two workers may have placed different decisions for the same source. The object of the dropped row is
    then an orphan, which only `lake.recovery` removes: rows still in flight may reference it.

    Args:
        layout: the lake.
        replica: replica of the lake's index.
        log: log of the shard to which all identities of the rows belong.
        rows: placed rows in any order; a source version may occur more than once.

    Raises:
        ProcessingFailure: the lake's storage refused a write.
        DamagedFile: an index file cannot be read.
    """
    for _ in range(MAX_ATTEMPTS):
        viewed_at = boottime()
        replica.refresh()
        new = _drop_existing(rows, replica)
        if not new:
            return AppendResult([], len(rows))
        end = replica.log_end(log)
        segment, seal_to = next_segment(end, partition_for(end, today()))
        if seal_to is not None:
            _put_seal(layout, log, segment, seal_to)
            continue
        stamped = [
            replace(row, run_id=_run_id(row, segment), ingest_date=segment.partition) for row in new
        ]
        existing = replica.rows_of({row.identity for row in stamped})
        resolved = resolve_all(stamped, existing).rows
        run_ids = ",".join(sorted({row.run_id for row in stamped}))
        data = parquet_bytes(to_table(resolved), {RUN_ID_KEY: run_ids.encode()})
        if boottime() - viewed_at > MAX_VIEW_AGE_S:
            continue
        if _put(layout, segment.uri(layout, log), data):
            return AppendResult(resolved, len(rows) - len(resolved))
    raise RuntimeError(
        f"shard {log.shard} of the index: other writers were first in {MAX_ATTEMPTS} attempts"
    )


def append_after(
    layout: Layout,
    log: LogShard,
    end: LogEnd,
    rows: pa.Table,
    *,
    run_id: str,
    ingest_date: str,
) -> str:
    """Append the resolved rows of a batch run after the end that its log had when the run started.

    If a retry finds its segment already written, it writes nothing, even if its rows differ in the times
    of a second fetch.

    Args:
        layout: the lake.
        log: the log to append to.
        end: end of the log when the run started; see `index_at_start`.
        rows: table of `SCHEMA`.
        run_id: id of the run.
        ingest_date: partition, YYYY-MM-DD.

    Returns:
        URI of the segment.

    Raises:
        ConcurrentWriteError: another run has appended to the log since, so this run has lost its lock.
        ProcessingFailure: the lake's storage refused a write.
    """
    while True:
        segment, seal_to = next_segment(end, ingest_date)
        if seal_to is None:
            metadata = {RUN_ID_KEY: run_id.encode()}
            data = parquet_bytes(rows, metadata)
        else:
            metadata = {NEXT_PARTITION_KEY: seal_to.encode()}
            data = parquet_bytes(to_table([]), metadata)
        uri = segment.uri(layout, log)
        written = _is_next(layout, log, segment) and _put(layout, uri, data)
        if not written and not _has_metadata(uri, metadata):
            raise ConcurrentWriteError(
                f"another run has written to {layout.root} since this one started; nothing is lost: "
                "run the same command again"
            )
        if seal_to is None:
            return uri
        end = LogEnd(segment, seal_to)


def _is_next(layout: Layout, log: LogShard, segment: Segment) -> bool:
    """Return whether a segment has a higher number than all segments of its log.

    That its number is free is not enough: a rewrite removes segments that others follow.
    """
    last = last_segments(list_index(layout)).get(log)
    return last is None or last.number < segment.number


def _has_metadata(uri: str, metadata: Mapping[bytes, bytes]) -> bool:
    try:
        return metadata.items() <= read_metadata(uri).items()
    except FileNotFoundError:
        return False


def log_ends(layout: Layout) -> Mapping[LogShard, LogEnd]:
    """Return the end of each log of an index."""
    return index_at_start(layout, None)[1]


def index_at_start(
    layout: Layout, run_id: str | None
) -> tuple[list[str], Mapping[LogShard, LogEnd]]:
    """Return the index as it was when a batch run started, even if an engine restarts the run.

    Args:
        layout: the lake.
        run_id: id of the run, whose segments at the ends of logs are ignored; None ignores none.

    Returns:
        URIs of the index files, and the end of each log.
    """
    files = list_index(layout)
    excluded = None if run_id is None else run_id.encode()
    ends: dict[LogShard, LogEnd] = {}
    while open_logs := last_segments(files).keys() - ends.keys():
        for log, segment in last_segments(files).items():
            if log in open_logs:
                uri = segment.uri(layout, log)
                metadata = read_metadata(uri)
                if excluded is not None and metadata.get(RUN_ID_KEY) == excluded:
                    files.remove(uri)
                else:
                    ends[log] = _log_end(segment, metadata)
    return files, ends


def seal_partitions_before(layout: Layout, day: str) -> None:
    """Seal every log that appends to a partition before `day`, so that it continues on `day`.

    A writer that is about to append to such a log finds it sealed.

    Args:
        layout: the lake.
        day: YYYY-MM-DD.
    """
    for log, end in log_ends(layout).items():
        while (current := end.partition) is not None and current < day:
            segment, seal_to = next_segment(end, day)
            assert seal_to is not None
            _put_seal(layout, log, segment, seal_to)
            end = _log_end(segment, read_metadata(segment.uri(layout, log)))


def seal_logs_ending_in(layout: Layout, files: Sequence[str]) -> None:
    """Append a seal to each log whose last segment is among `files`, so that they can be replaced.

    The seal keeps the number of the last segment known: it is not used again.
    """
    for log, end in log_ends(layout).items():
        if end.last is not None and end.last.uri(layout, log) in files:
            partition = str(end.partition)
            _put_seal(layout, log, Segment(end.last.number + 1, partition), partition)


def today() -> str:
    """Return the current date in UTC, YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _log_end(segment: Segment, metadata: Mapping[bytes, bytes]) -> LogEnd:
    next_partition = metadata.get(NEXT_PARTITION_KEY)
    return LogEnd(segment, None if next_partition is None else next_partition.decode())


def _run_id(row: IndexRow, segment: Segment) -> str:
    return f"{row.deciding_run}{RUN_ID_SEPARATOR}{segment.number}"


def _put_seal(layout: Layout, log: LogShard, segment: Segment, partition: str) -> bool:
    data = parquet_bytes(to_table([]), {NEXT_PARTITION_KEY: partition.encode()})
    return _put(layout, segment.uri(layout, log), data)


def _put(layout: Layout, uri: str, data: bytes) -> bool:
    """Write a segment if it is absent; return False if another writer was first."""
    try:
        return put_bytes(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    except ProcessingFailure as error:
        if error.reason != Reason.NAME_TAKEN:
            raise
        return False


def _drop_existing(rows: Sequence[IndexRow], replica: IndexReplica) -> list[IndexRow]:
    """Return the rows whose source version is not in the index, one for each version."""
    by_version = {row.version_key: row for row in reversed(sorted(rows, key=decision_order))}
    existing = replica.existing(list(by_version))
    return [row for version, row in by_version.items() if version not in existing]
