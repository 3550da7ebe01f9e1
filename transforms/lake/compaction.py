"""Compact the index: merge the small files of each past partition in one rewrite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from transforms.lake.append import seal_partitions_before
from transforms.lake.append_log import last_segments
from transforms.lake.index_files import count_rows, list_index, open_index_file
from transforms.lake.layout import Layout, partition_of
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_intents import finish_rewrites
from transforms.lake.schema import ROW_GROUP_ROWS, SCHEMA, conform


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
            rows = rewrite(layout, day, files, _tables(files))
            remaining = sum(partition_of(uri) == day for uri in ends) + bool(rows)
            compacted.append(CompactedPartition(day, len(files), rows, remaining))
    return compacted


def _tables(files: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of files as tables of one schema: `SCHEMA` and the further columns of any file."""
    schema = SCHEMA
    for uri in files:
        with open_index_file(uri) as file:
            schema = conform(file.schema_arrow.empty_table(), schema).schema
    schema = schema.remove_metadata()
    for uri in files:
        with open_index_file(uri) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                table = conform(pa.Table.from_batches([batch]), schema)
                yield table.replace_schema_metadata(None)
