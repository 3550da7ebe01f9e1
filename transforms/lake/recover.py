"""What a stream that was killed has placed, brought into the index; and the journal kept short."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from transforms.lake.catalog import Catalog
from transforms.lake.commit import commit
from transforms.lake.index_files import shard_of
from transforms.lake.journal import JournalRow, list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.settle import below_root
from transforms.lake.stream_log import Chain
from transforms.storage.schemes import storage_of


def recover(layout: Layout, catalog: Catalog, run_id: str, shards: int) -> int:
    """Index all that the journal says was placed, and remove what no row names then.

    Rows are taken over whatever decided them: a job that goes on from its savepoint holds the same
    ones in its state and will bring them once more.

    Args:
        layout: the lake, into which no other run writes.
        catalog: of the lake.
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
    taken_over = 0
    for shard, rows in sorted(by_shard.items()):
        done = commit(layout, catalog, run_id, Chain(shards, shard), rows)
        taken_over += len(done.rows)
    catalog.refresh()
    for uri in _strays(layout, catalog, placed):
        storage_of(uri).remove(uri)
    for uri in files:
        storage_of(uri).remove(uri)
    return taken_over


@dataclass
class JournalSweeper:
    """Removes files of the journal once all their rows stand in the index.

    Those that tell of an object that no row names stay, for `recover` to remove it.
    """

    layout: Layout
    catalog: Catalog

    def sweep(self) -> int:
        """Remove what is done with; returns how many files."""
        self.catalog.refresh()
        removed = 0
        for uri in list_journal(self.layout):
            if self._is_done(list(read_journal(uri))):
                storage_of(uri).remove(uri)
                removed += 1
        return removed

    def _is_done(self, entries: list[JournalRow]) -> bool:
        versions = {(entry.row.source_uri, entry.row.source_version) for entry in entries}
        if self.catalog.held(list(versions)) != versions:
            return False
        return not _strays(self.layout, self.catalog, entries)


def _strays(layout: Layout, catalog: Catalog, entries: list[JournalRow]) -> list[str]:
    """Objects of the lake that were placed and that no row names."""
    placed = {str(entry.row.object_uri) for entry in entries}
    known = catalog.rows_of({entry.row.identity for entry in entries})
    kept = {below_root(row.object_uri) for row in known}
    return sorted(uri for uri in placed if layout.holds(uri) and below_root(uri) not in kept)
