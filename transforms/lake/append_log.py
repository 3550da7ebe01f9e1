"""Index files of streams: for each shard a chain whose next file only one writer can add.

A stream's rows are written while engines replay, lose and replace workers, and a worker that was
given up may still be at work. Its writer therefore appends: it looks at the index, drops rows that
stand there already, and puts the next file of its shard's chain if there is none. Who is refused has
looked at an index that has grown meanwhile, and looks again (optimistic concurrency control, as in
Delta Lake: Armbrust et al. 2020). The lake is right whichever attempt wins.

The files of a chain stand in the partition of the day on which they were written. A chain goes on to
another day only after an empty file has closed the day before, so that late writers are refused there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.storage.schemes import join

_NAME: Final = re.compile(
    rf"{PARTITION_PREFIX}([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/"
    r"stream-([0-9]{3})-([0-9]{3})-([0-9]{9})\.parquet$"
)
MAX_SHARDS: Final = 999


@dataclass(frozen=True, order=True)
class LogShard:
    """What a chain is told by: streams of another number of shards have chains of their own."""

    shards: int
    shard: int


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a chain.

    Attributes:
        number: from 1, over all days.
        ingest_date: partition, YYYY-MM-DD.
    """

    number: int
    ingest_date: str

    def uri(self, layout: Layout, chain: LogShard) -> str:
        """Name of the file."""
        name = f"stream-{chain.shards:03d}-{chain.shard:03d}-{self.number:09d}.parquet"
        return join(layout.partition(self.ingest_date), name)


def parse(uri: str) -> tuple[LogShard, Segment] | None:
    """Return what a file's name says, or None where it is no file of a stream."""
    found = _NAME.search(uri)
    if found is None:
        return None
    day, shards, shard, number = found.groups()
    return LogShard(int(shards), int(shard)), Segment(int(number), day)


def last_segments(uris: Iterable[str]) -> Mapping[LogShard, Segment]:
    """Return the last file of each chain."""
    last: dict[LogShard, Segment] = {}
    for parsed in map(parse, uris):
        if parsed is not None:
            chain, link = parsed
            last[chain] = max(link, last.get(chain, link))
    return last


def next_segment(tail: Segment | None, *, closed: bool, today: str) -> tuple[Segment, bool]:
    """Return the next file of a chain, and whether it must be an empty one that closes a day.

    Args:
        tail: the last file, if there is one.
        closed: whether that file is empty.
        today: as the writer's clock says; the chain's own day counts where that is later.
    """
    if tail is None:
        return Segment(1, today), False
    if closed:
        return Segment(tail.number + 1, max(today, _day_after(tail.ingest_date))), False
    if today <= tail.ingest_date:
        return Segment(tail.number + 1, tail.ingest_date), False
    return Segment(tail.number + 1, tail.ingest_date), True


def _day_after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
