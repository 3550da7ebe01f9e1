"""The append log of the index: for each shard a sequence of segments that only one writer can extend.

A segment is an immutable Parquet file. A writer looks at the end of a log and puts the next number if
it is absent; one that is refused has seen an older end (optimistic concurrency control, as in Delta
Lake: Armbrust et al. 2020, VLDB 13). So a worker that was given up, or a run whose lock has passed to
another, adds nothing.

Segments are in the partition of a day. A log moves to another day by a seal: an empty segment that
names the next partition, so that a late writer finds the number taken. Days may go back: one wrong
clock does not pin a log to the future.
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
"""A log stays in a partition that is this many days ahead of a writer's clock."""


@dataclass(frozen=True, order=True)
class LogShard:
    """Which log: runs with another number of shards have logs of their own."""

    shards: int
    shard: int


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a log.

    Attributes:
        number: from 1, over all partitions.
        partition: YYYY-MM-DD.
    """

    number: int
    partition: str

    def uri(self, layout: Layout, log: LogShard) -> str:
        """Return the name of the file."""
        name = f"log-{log.shards:03d}-{log.shard:03d}-{self.number:09d}.parquet"
        return join(layout.partition(self.partition), name)


@dataclass(frozen=True)
class LogEnd:
    """Where a log ends.

    Attributes:
        last: the last segment; None: the log is empty.
        next_partition: where the next segment belongs, if the last one is a seal.
    """

    last: Segment | None = None
    next_partition: str | None = None

    @property
    def partition(self) -> str | None:
        """Partition that the next segment belongs to; None: any."""
        if self.next_partition is not None or self.last is None:
            return self.next_partition
        return self.last.partition


def parse(uri: str) -> tuple[LogShard, Segment] | None:
    """Return what a file's name says, or None where it is not a segment."""
    found = _NAME.search(uri)
    if found is None:
        return None
    day, shards, shard, number = found.groups()
    return LogShard(int(shards), int(shard)), Segment(int(number), day)


def last_segments(uris: Iterable[str]) -> dict[LogShard, Segment]:
    """Return the last segment of each log."""
    last: dict[LogShard, Segment] = {}
    for parsed in map(parse, uris):
        if parsed is not None:
            log, segment = parsed
            last[log] = max(segment, last.get(log, segment))
    return last


def next_segment(end: LogEnd, partition: str) -> tuple[Segment, str | None]:
    """Return the next segment on the way to a partition.

    Returns:
        The segment, and None where it may hold rows; else the partition that it must be a seal to.
    """
    number = 1 if end.last is None else end.last.number + 1
    current = end.partition or partition
    return Segment(number, current), None if current == partition else partition


def partition_for(end: LogEnd, today: str) -> str:
    """Return the partition that a stream's writer appends to.

    Args:
        end: of its log.
        today: by the writer's clock; one day behind the log is taken for clock skew.
    """
    current = end.partition
    if current is None:
        return today
    ahead = (date.fromisoformat(current) - date.fromisoformat(today)).days
    return current if 0 <= ahead <= CLOCK_SKEW_DAYS else today
