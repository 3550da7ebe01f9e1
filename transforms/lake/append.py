"""Brings placed rows of a stream into the index, each once, whoever else tries the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake.append_log import LogShard, last_segments, next_segment
from transforms.lake.files import put_bytes
from transforms.lake.index_files import list_index, number_of_rows, parquet_bytes
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.schema import WINDOW_MARK, IndexRow, to_table

MAX_TRIES: Final = 1000


@dataclass(frozen=True)
class Appended:
    """What became of rows.

    Attributes:
        rows: that were written, as they stand in the index.
        held: how many the index held already.
    """

    rows: list[IndexRow]
    held: int


def append(
    layout: Layout, replica: IndexReplica, run_id: str, chain: LogShard, rows: Sequence[IndexRow]
) -> Appended:
    """Settle rows and append them to a chain; what the index holds is dropped.

    What is settled is the window: its rows are told apart from those of other windows by their run id,
    which is that of the stream, a dot, and the number of the file in its chain.

    An object that no row names in the end, as it was decided twice and differently, is left to
    `recover`: rows that have not come here yet may name it.

    Args:
        layout: the lake.
        replica: of the lake.
        run_id: of the run that writes them, whichever decided them.
        chain: of the shard that all identities of the rows belong to.
        rows: placed; in any order, and perhaps more than one for a version of a source.

    Raises:
        Unaccounted: the lake's storage refused.
        RuntimeError: the index cannot be read.
    """
    for _ in range(MAX_TRIES):
        replica.refresh()
        tail, closed = replica.tail(chain)
        link, closes = next_segment(tail, closed=closed, today=today())
        fresh = _fresh(rows, replica)
        if not fresh:
            return Appended([], len(rows))
        named = f"{run_id}{WINDOW_MARK}{link.number}"
        stamped = [replace(r, run_id=named, ingest_date=link.ingest_date) for r in fresh]
        resolved = [] if closes else _resolved(stamped, replica)
        if _put(layout, link.uri(layout, chain), resolved) and resolved:
            return Appended(resolved, len(rows) - len(resolved))
    raise RuntimeError(f"shard {chain.shard} of the index: others were first {MAX_TRIES} times")


def seal_before(layout: Layout, before: str) -> None:
    """See to it that no stream adds a file any more to the days before one.

    A stream that goes on with such a chain finds it closed, and begins the next day.
    """
    for chain, tail in last_segments(list_index(layout)).items():
        link = tail
        while link.ingest_date < before and number_of_rows(link.uri(layout, chain)):
            link = replace(link, number=link.number + 1)
            _put(layout, link.uri(layout, chain), [])


def today() -> str:
    """Return the day, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _put(layout: Layout, uri: str, rows: Sequence[IndexRow]) -> bool:
    """Write the next file of a chain; False if another writer was first."""
    try:
        put_bytes(uri, parquet_bytes(to_table(rows)), scratch=layout.scratch())
    except ProcessingFailure as error:
        if error.reason != Reason.NAME_TAKEN:
            raise
        return False
    return True


def _fresh(rows: Sequence[IndexRow], replica: IndexReplica) -> list[IndexRow]:
    """Return the rows that the index lacks, one for each version of a source."""
    ordered = sorted(rows, key=lambda r: (r.model_id or "", str(r.object_uri), r.ingested_at))
    by_version = {(row.source_uri, row.source_version): row for row in reversed(ordered)}
    held = replica.held(list(by_version))
    return [row for version, row in by_version.items() if version not in held]


def _resolved(rows: Sequence[IndexRow], replica: IndexReplica) -> list[IndexRow]:
    return resolve_all(rows, replica.rows_of({row.identity for row in rows})).rows
