"""The append log of the index: one numbered sequence of segments per shard.

A segment is an immutable Parquet file. A writer looks up the end of the log and puts the segment with the
next number if it is absent. If that number is taken, the writer has seen an outdated end, and looks again
(optimistic concurrency control, as in Delta Lake: Armbrust et al. 2020, VLDB 13). This fences off zombie
workers and runs that have lost their lock.

Each segment is in the partition of one day. A log moves to another day by a seal: an empty segment whose
metadata has the next partition. A late writer then finds its number taken. A log may also move to an
earlier day, so that one wrong clock does not pin it to the future.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.storage.schemes import join

_NAME: Final = re.compile(
    rf"{PARTITION_PREFIX}([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/"
    r"log-([0-9]{3})-([0-9]{3})-([0-9]{9})\.parquet$"
)
MAX_SHARDS: Final = 999
CLOCK_SKEW_DAYS: Final = 1
"""Maximum number of days that a log's partition may be ahead of a writer's clock."""


@dataclass(frozen=True, order=True)
class LogShard:
    """Identifies a log. Runs with different numbers of shards append to different logs.

    Attributes:
        shards: number of shards, 1..`MAX_SHARDS`.
        shard: 0..shards - 1.
    """

    shards: int
    shard: int


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a log.

    Attributes:
        number: position in the log, from 1, across partitions.
        partition: YYYY-MM-DD.
    """

    number: int
    partition: str

    def uri(self, layout: Layout, log: LogShard) -> str:
        """Return the path or URI of the file."""
        name = f"log-{log.shards:03d}-{log.shard:03d}-{self.number:09d}.parquet"
        return join(layout.partition(self.partition), name)


@dataclass(frozen=True)
class LogEnd:
    """The end of a log.

    Attributes:
        last: the last segment; None if the log is empty.
        next_partition: partition of the next segment if the last one is a seal, else None.
    """

    last: Segment | None = None
    next_partition: str | None = None

    @property
    def partition(self) -> str | None:
        """Partition of the next segment; None if the log is empty."""
        if self.next_partition is not None or self.last is None:
            return self.next_partition
        return self.last.partition


def parse_segment(uri: str) -> tuple[LogShard, Segment] | None:
    """Return the log and segment of a file name; None if the file is not a segment."""
    match = _NAME.search(uri)
    if match is None:
        return None
    day, shards, shard, number = match.groups()
    return LogShard(int(shards), int(shard)), Segment(int(number), day)


def last_segments(uris: Iterable[str]) -> dict[LogShard, Segment]:
    """Return the last segment of each log among index files."""
    last: dict[LogShard, Segment] = {}
    for parsed in map(parse_segment, uris):
        if parsed is not None:
            log, segment = parsed
            last[log] = max(segment, last.get(log, segment))
    return last


def next_segment(end: LogEnd, partition: str) -> tuple[Segment, str | None]:
    """Return the next segment to write so that the log reaches a partition.

    Args:
        end: end of the log.
        partition: the partition to append to, YYYY-MM-DD.

    Returns:
        The segment, and None if it is in `partition` and may have rows, or `partition` if the segment
        must be a seal that moves the log there.
    """
    number = 1 if end.last is None else end.last.number + 1
    current = end.partition or partition
    return Segment(number, current), None if current == partition else partition


def partition_for(end: LogEnd, today: str) -> str:
    """Return the partition that a stream appends to.

    Args:
        end: end of its log.
        today: date of the writer's clock, YYYY-MM-DD. If the log is ahead of it by at most
            `CLOCK_SKEW_DAYS`, the log stays in its partition.
    """
    current = end.partition
    if current is None:
        return today
    ahead = (date.fromisoformat(current) - date.fromisoformat(today)).days
    return current if 0 <= ahead <= CLOCK_SKEW_DAYS else today
