"""Compact the index: merge the small files of each past partition in one rewrite."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from transforms.lake.append import seal_partitions_before
from transforms.lake.append_log import last_segments
from transforms.lake.index_files import count_rows, list_index, read_unified
from transforms.lake.layout import Layout, partition_of
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_intents import finish_rewrites


@dataclass(frozen=True)
class CompactedPartition:
    """Result of `compact` for one partition.

    Attributes:
        ingest_date: the partition, YYYY-MM-DD.
        merged_files: number of files that were merged.
        rows: number of rows in them.
        remaining_files: number of files in the partition afterwards: the merged file and the last
            segments of logs.
    """

    ingest_date: str
    merged_files: int
    rows: int
    remaining_files: int


def compact(layout: Layout, before: str) -> list[CompactedPartition]:
    """Merge the index files of each partition before a day.

    The caller holds the lake's `LOCK`. Streams may append at the same time.

    Args:
        layout: the lake.
        before: YYYY-MM-DD in UTC; at most today, because streams append to today's partition.

    Raises:
        DamagedFile: an index file cannot be read; its partition is unchanged.
        ProcessingFailure: the lake's storage refused a write.
    """
    finish_rewrites(layout)
    seal_partitions_before(layout, before)
    listed = list_index(layout)
    ends = {segment.uri(layout, log) for log, segment in last_segments(listed).items()}
    partitions: dict[str, list[str]] = defaultdict(list)
    for uri in listed:
        if partition_of(uri) < before and uri not in ends:
            partitions[partition_of(uri)].append(uri)
    compacted = []
    for day, files in sorted(partitions.items()):
        if len(files) > 1 or not all(map(count_rows, files)):
            rows = rewrite(layout, day, files, read_unified(files))
            remaining = sum(partition_of(uri) == day for uri in ends) + bool(rows)
            compacted.append(CompactedPartition(day, len(files), rows, remaining))
    return compacted
