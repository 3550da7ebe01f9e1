"""Compaction: merges the small index files of days that are over, one rewrite a partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from transforms.lake.append import seal_before
from transforms.lake.append_log import last_segments
from transforms.lake.index_files import list_index, number_of_rows, readable
from transforms.lake.layout import Layout, partition_of
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_notes import finish_rewrites
from transforms.lake.schema import ROW_GROUP_ROWS, SCHEMA, conform


@dataclass(frozen=True)
class Compacted:
    """What was done to one partition.

    Attributes:
        ingest_date: the partition.
        files: that were merged.
        rows: in them.
        left: index files of the partition afterwards: the merged one and the ends of logs.
    """

    ingest_date: str
    files: int
    rows: int
    left: int


def compact(layout: Layout, before: str) -> list[Compacted]:
    """Merge the index files of each day before one.

    Only this, and streams, may write into the lake meanwhile: hold its `LOCK`.

    Args:
        layout: the lake.
        before: YYYY-MM-DD, UTC; at most today, since streams write into today's partition.

    Raises:
        DamagedFile: an index file cannot be read; its partition is unchanged.
        ProcessingFailure: the lake's storage refused.
    """
    finish_rewrites(layout)
    seal_before(layout, before)
    listed = list_index(layout)
    ends = {segment.uri(layout, log) for log, segment in last_segments(listed).items()}
    partitions: dict[str, list[str]] = defaultdict(list)
    for uri in listed:
        if partition_of(uri) < before and uri not in ends:
            partitions[partition_of(uri)].append(uri)
    done = []
    for day, files in sorted(partitions.items()):
        empty = sum(not number_of_rows(uri) for uri in files)
        if len(files) > 1 or empty:
            rows = rewrite(layout, day, files, _tables(files))
            kept = sum(partition_of(uri) == day for uri in ends)
            done.append(Compacted(day, len(files), rows, kept + bool(rows)))
    return done


def _tables(files: Sequence[str]) -> Iterator[pa.Table]:
    """Read files as tables of one schema: ours, and what columns other releases have beyond it."""
    schema = SCHEMA
    for uri in files:
        with readable(uri) as file:
            schema = conform(file.schema_arrow.empty_table(), schema).schema
    schema = schema.remove_metadata()
    for uri in files:
        with readable(uri) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                table = conform(pa.Table.from_batches([batch]), schema)
                yield table.replace_schema_metadata(None)
