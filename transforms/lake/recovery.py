"""Recovery: what an interrupted run has placed is brought into the index, and nothing else is left."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import shard_of
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import JournalRow, is_placed, list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.orphans import remove_orphans
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.rewrite_notes import finish_rewrites
from transforms.lake.supersede import list_intents, undo_unfinished
from transforms.storage.schemes import storage_of

ROWS_AT_ONCE: Final = 10_000
THREADS: Final = 16


def recover(
    layout: Layout,
    shards: int,
    *,
    fingerprint: str | None = None,
    replica: IndexReplica | None = None,
) -> int:
    """Index what the journal says was placed, and remove what no row names then.

    Rows keep the id of the run that decided them. Repeating it, or killing it, changes nothing.

    Args:
        layout: the lake, into which no other run writes.
        shards: of the logs to append to.
        fingerprint: rows decided by anything else are dropped with their objects, to be decided
            anew; None: rows are recovered whatever decided them, as a stream does: a job that goes
            on from its savepoint has the same ones in its state and brings them once more.
        replica: of the index; None: one is made if there is anything to recover.

    Returns:
        Number of rows recovered.

    Raises:
        DamagedFile: the journal or the index cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    finish_rewrites(layout)
    files = list_journal(layout)
    if not files and not list_intents(layout):
        return 0
    with contextlib.ExitStack() as stack:
        if replica is None:
            replica = IndexReplica(layout)
            stack.callback(replica.close)
        recovered = 0
        for entries in _chunks(files, layout):
            rows = [e for e in entries if fingerprint in (None, e.fingerprint)]
            recovered += _append(layout, shards, rows, replica)
        replica.refresh()
        for entries in _chunks(files, layout):
            remove_orphans(layout, _orphans(entries, replica))
        undo_unfinished(layout, replica)
    for uri in files:
        storage_of(uri).remove(uri)
    return recovered


@dataclass
class JournalSweeper:
    """Removes files of the journal once all their rows are in the index, while a stream goes on.

    Those that tell of an object that no row names stay: `recover` removes both.
    """

    layout: Layout
    replica: IndexReplica

    def sweep(self) -> int:
        """Remove what is done with; returns how many files."""
        self.replica.refresh()
        removed = 0
        for uri in list_journal(self.layout):
            if self._is_done(list(read_journal(uri, self.layout))):
                storage_of(uri).remove(uri)
                removed += 1
        return removed

    def _is_done(self, entries: Sequence[JournalRow]) -> bool:
        versions = {(entry.row.source_uri, entry.row.source_version) for entry in entries}
        if self.replica.existing(list(versions)) != versions:
            return False
        return not _orphans(entries, self.replica)


def _chunks(files: Sequence[str], layout: Layout) -> Iterator[list[JournalRow]]:
    """Read files of the journal, some `ROWS_AT_ONCE` rows at once."""
    chunk: list[JournalRow] = []
    for uri in files:
        chunk += read_journal(uri, layout)
        if len(chunk) >= ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _append(
    layout: Layout, shards: int, entries: Sequence[JournalRow], replica: IndexReplica
) -> int:
    """Append those rows whose objects are placed; returns how many the index lacked."""
    with ThreadPoolExecutor(THREADS) as pool:
        placed = pool.map(lambda entry: is_placed(entry.row, layout), entries)
        rows = [entry.row for entry, done in zip(entries, placed, strict=True) if done]
    by_shard = defaultdict(list)
    for row in rows:
        by_shard[shard_of(row.identity, shards)].append(row)
    return sum(
        len(append(layout, replica, LogShard(shards, shard), of_shard).rows)
        for shard, of_shard in sorted(by_shard.items())
    )


def _orphans(entries: Sequence[JournalRow], replica: IndexReplica) -> set[str]:
    """Return the objects that were placed and that no row names."""
    placed = {str(entry.row.object_uri) for entry in entries if is_stored(entry.row)}
    known = replica.rows_of({entry.row.identity for entry in entries})
    return placed - {row.object_uri for row in known}
