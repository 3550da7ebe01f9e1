"""Append: brings placed rows into the index, each once, whoever else tries the same."""

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
    metadata_of,
    parquet_bytes,
)
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.schema import SEGMENT_MARK, IndexRow, to_table
from transforms.storage.processes import boottime

MAX_TRIES: Final = 1000
MAX_VIEW_AGE_S: Final = 60.0
"""A writer that was suspended looks at the index again: the number that it is about to write may be
free only because a rewrite has removed the segment."""


class IndexOvertaken(RuntimeError):
    """Another run has appended to the index since this one began."""


@dataclass(frozen=True)
class Appended:
    """What became of rows.

    Attributes:
        rows: that were written, as the index has them.
        existing: how many the index had already.
    """

    rows: list[IndexRow]
    existing: int


def append(
    layout: Layout, replica: IndexReplica, log: LogShard, rows: Sequence[IndexRow]
) -> Appended:
    """Resolve rows and append them to a log; what the index has already is dropped.

    The rows of a segment are told from those of others by their run id, which is that of the run that
    decided them, a dot, and the number of the segment. An object that no row names in the end, as it
    was decided twice and differently, is left to `lake.recovery`: a row still under way may name it.

    Args:
        layout: the lake.
        replica: of its index.
        log: of the shard that all identities of the rows belong to.
        rows: placed; in any order, and perhaps more than one for a version of a source.

    Raises:
        ProcessingFailure: the lake's storage refused.
        DamagedFile: the index cannot be read.
    """
    for _ in range(MAX_TRIES):
        seen = boottime()
        replica.refresh()
        new = _without_existing(rows, replica)
        if not new:
            return Appended([], len(rows))
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
        if boottime() - seen > MAX_VIEW_AGE_S:
            continue
        if _put(layout, segment.uri(layout, log), data):
            return Appended(resolved, len(rows) - len(resolved))
    raise RuntimeError(f"shard {log.shard} of the index: others were first {MAX_TRIES} times")


def append_planned(
    layout: Layout,
    log: LogShard,
    planned: LogEnd,
    rows: pa.Table,
    *,
    run_id: str,
    ingest_date: str,
) -> str:
    """Append resolved rows of a batch run right after the end that its log had when the run began.

    A retry of the same run finds its segment written, and what it would write later (times of a
    second fetch) is dropped.

    Args:
        layout: the lake.
        log: of the shard.
        planned: end of the log when the run began; see `log_ends`.
        rows: of `SCHEMA`.
        run_id: of the run.
        ingest_date: the partition.

    Returns:
        URI of the segment.

    Raises:
        IndexOvertaken: another run has appended meanwhile: this one lost its lock.
        ProcessingFailure: the lake's storage refused.
    """
    end = planned
    while True:
        segment, seal_to = next_segment(end, ingest_date)
        if seal_to is None:
            metadata = {RUN_ID_KEY: run_id.encode()}
            data = parquet_bytes(rows, metadata)
        else:
            metadata = {NEXT_PARTITION_KEY: seal_to.encode()}
            data = parquet_bytes(to_table([]), metadata)
        uri = segment.uri(layout, log)
        is_next = _is_next(layout, log, segment)
        if not (is_next and _put(layout, uri, data)) and not _has_metadata(uri, metadata):
            raise IndexOvertaken(
                f"another run has written into {layout.root} since this one began; nothing is lost: "
                "run the same command again"
            )
        if seal_to is None:
            return uri
        end = LogEnd(segment, seal_to)


def _is_next(layout: Layout, log: LogShard, segment: Segment) -> bool:
    """Whether no segment of a log has this number or a higher one.

    The number alone may be free again: a rewrite removes segments that are followed by others.
    """
    last = last_segments(list_index(layout)).get(log)
    return last is None or last.number < segment.number


def _has_metadata(uri: str, metadata: Mapping[bytes, bytes]) -> bool:
    try:
        return metadata.items() <= metadata_of(uri).items()
    except FileNotFoundError:
        return False


def log_ends(layout: Layout) -> Mapping[LogShard, LogEnd]:
    """Return where each log of an index ends."""
    return index_before(layout, None)[1]


def index_before(layout: Layout, run_id: str | None) -> tuple[list[str], Mapping[LogShard, LogEnd]]:
    """Return the index as a batch run found it, also when an engine runs it again from its start.

    Args:
        layout: the lake.
        run_id: of the run, whose own segments at the ends of logs do not count; None: all count.

    Returns:
        URIs of the index files, and where each log ends.
    """
    files = list_index(layout)
    own = {} if run_id is None else {RUN_ID_KEY: run_id.encode()}
    ends: dict[LogShard, LogEnd] = {}
    while open_logs := last_segments(files).keys() - ends.keys():
        for log, segment in last_segments(files).items():
            if log in open_logs:
                uri = segment.uri(layout, log)
                metadata = metadata_of(uri)
                if own and own.items() <= metadata.items():
                    files.remove(uri)
                else:
                    ends[log] = _end(segment, metadata)
    return files, ends


def _end(segment: Segment, metadata: Mapping[bytes, bytes]) -> LogEnd:
    sealed_to = metadata.get(NEXT_PARTITION_KEY)
    return LogEnd(segment, None if sealed_to is None else sealed_to.decode())


def seal_before(layout: Layout, before: str) -> None:
    """Move every log that would go on in a partition before a day to that day.

    A writer that goes on with such a log finds it sealed.
    """
    for log, end in log_ends(layout).items():
        while (current := end.partition) is not None and current < before:
            segment, seal_to = next_segment(end, before)
            assert seal_to is not None
            _put_seal(layout, log, segment, seal_to)
            end = _end(segment, metadata_of(segment.uri(layout, log)))


def keep_ends(layout: Layout, files: Sequence[str]) -> None:
    """Extend each log whose last segment is among some files by a seal, so that they can be replaced."""
    for log, end in log_ends(layout).items():
        if end.last is not None and end.last.uri(layout, log) in files:
            partition = str(end.partition)
            _put_seal(layout, log, Segment(end.last.number + 1, partition), partition)


def today() -> str:
    """Return the day, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _run_id(row: IndexRow, segment: Segment) -> str:
    return f"{row.run_id.partition(SEGMENT_MARK)[0]}{SEGMENT_MARK}{segment.number}"


def _put_seal(layout: Layout, log: LogShard, segment: Segment, partition: str) -> bool:
    data = parquet_bytes(to_table([]), {NEXT_PARTITION_KEY: partition.encode()})
    return _put(layout, segment.uri(layout, log), data)


def _put(layout: Layout, uri: str, data: bytes) -> bool:
    """Write a segment; return whether it is new, even if another writer's has the same bytes."""
    try:
        return put_bytes(uri, data, scratch=layout.scratch())
    except ProcessingFailure as error:
        if error.reason != Reason.NAME_TAKEN:
            raise
        return False


def _without_existing(rows: Sequence[IndexRow], replica: IndexReplica) -> list[IndexRow]:
    """Return the rows that the index lacks, one for each version of a source."""
    ordered = sorted(rows, key=lambda r: (r.model_id or "", str(r.object_uri), r.ingested_at))
    by_version = {(row.source_uri, row.source_version): row for row in reversed(ordered)}
    existing = replica.existing(list(by_version))
    return [row for version, row in by_version.items() if version not in existing]
