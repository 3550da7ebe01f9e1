"""What a stream that was killed has placed, brought into the index; and the journal kept short."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import shard_of
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import JournalRow, list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.resolve_duplicates import below_root
from transforms.lake.schema import IndexRow
from transforms.storage.schemes import storage_of


def recover(layout: Layout, replica: IndexReplica, run_id: str, shards: int) -> int:
    """Index all that the journal says was placed, and remove what no row names then.

    Rows are taken over whatever decided them: a job that goes on from its savepoint holds the same
    ones in its state and will bring them once more.

    Args:
        layout: the lake, into which no other run writes.
        replica: of the lake.
        run_id: of the run that takes them over.
        shards: of the streams' index files.

    Returns:
        Number of rows taken over.
    """
    files = list_journal(layout)
    placed = [entry for uri in files for entry in read_journal(uri) if entry.is_placed]
    by_shard: dict[int, list[IndexRow]] = defaultdict(list)
    for entry in placed:
        by_shard[shard_of(entry.row.identity, shards)].append(entry.row)
    recovered_row = 0
    for shard, rows in sorted(by_shard.items()):
        done = append(layout, replica, run_id, LogShard(shards, shard), rows)
        recovered_row += len(done.rows)
    replica.refresh()
    for uri in _orphans(layout, replica, placed):
        storage_of(uri).remove(uri)
    for uri in files:
        storage_of(uri).remove(uri)
    return recovered_row


@dataclass
class JournalSweeper:
    """Removes files of the journal once all their rows stand in the index.

    Those that tell of an object that no row names stay, for `recover` to remove it.
    """

    layout: Layout
    replica: IndexReplica

    def remove_stale(self) -> int:
        """Remove what is done with; returns how many files."""
        self.replica.refresh()
        removed = 0
        for uri in list_journal(self.layout):
            if self._is_done(list(read_journal(uri))):
                storage_of(uri).remove(uri)
                removed += 1
        return removed

    def _is_done(self, entries: list[JournalRow]) -> bool:
        versions = {(entry.row.source_uri, entry.row.source_version) for entry in entries}
        if self.replica.held(list(versions)) != versions:
            return False
        return not _orphans(self.layout, self.replica, entries)


def _orphans(layout: Layout, replica: IndexReplica, entries: list[JournalRow]) -> list[str]:
    """Objects of the lake that were placed and that no row names."""
    placed = {str(entry.row.object_uri) for entry in entries}
    known = replica.rows_of({entry.row.identity for entry in entries})
    kept = {below_root(row.object_uri) for row in known}
    return sorted(uri for uri in placed if layout.holds(uri) and below_root(uri) not in kept)
