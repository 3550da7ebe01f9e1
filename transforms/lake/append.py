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

MAX_TRIES: Final = 1000


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
        if _put(layout, log, segment, to_table(resolved), {RUN_ID_KEY: run_ids.encode()}):
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
        uri = segment.uri(layout, log)
        if seal_to is None:
            metadata = {RUN_ID_KEY: run_id.encode()}
            written = _put(layout, log, segment, rows, metadata)
        else:
            metadata = {NEXT_PARTITION_KEY: seal_to.encode()}
            written = _put_seal(layout, log, segment, seal_to)
        if not written and not metadata.items() <= metadata_of(uri).items():
            raise IndexOvertaken(
                f"another run has written into {layout.root} since this one began; nothing is lost: "
                "run the same command again"
            )
        if seal_to is None:
            return uri
        end = LogEnd(segment, seal_to)


def log_ends(layout: Layout, *, besides: str | None = None) -> Mapping[LogShard, LogEnd]:
    """Return where each log of an index ends.

    Args:
        layout: the lake.
        besides: id of a run whose own segments do not count, nor do the seals right before them.
    """
    listed = list_index(layout)
    ends: dict[LogShard, LogEnd] = {}
    remaining = listed
    mine = None if besides is None else besides.encode()
    while remaining:
        again: set[LogShard] = set()
        for log, segment in last_segments(remaining).items():
            if log in ends:
                continue
            metadata = metadata_of(segment.uri(layout, log))
            if mine is not None and metadata.get(RUN_ID_KEY) == mine:
                again.add(log)
                remaining = [uri for uri in remaining if uri != segment.uri(layout, log)]
            else:
                ends[log] = _end(segment, metadata)
        if not again:
            break
    return ends


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
    return _put(layout, log, segment, to_table([]), {NEXT_PARTITION_KEY: partition.encode()})


def _put(
    layout: Layout, log: LogShard, segment: Segment, rows: pa.Table, metadata: Mapping[bytes, bytes]
) -> bool:
    """Write a segment; return whether it is new, even if another writer's has the same bytes."""
    data = parquet_bytes(rows, metadata)
    try:
        return put_bytes(segment.uri(layout, log), data, scratch=layout.scratch())
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
