"""Recovery: what an interrupted run has placed gets its rows, and nothing else is left of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa

from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import (
    ExistingRow,
    list_index,
    read_existing,
    read_versions,
    shard_of,
)
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import JournalRow, is_placed, list_journal, read_journal, write_journal
from transforms.lake.layout import Layout
from transforms.lake.orphans import remove_orphans
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.schema import IndexRow
from transforms.lake.supersede import undo_unfinished
from transforms.storage.schemes import storage_of

ROWS_AT_ONCE: Final = 10_000
THREADS: Final = 16


def recover(layout: Layout, shards: int, replica: IndexReplica) -> int:
    """Append to the index what the journal says was placed, and remove what no row names then.

    A stream recovers so. Rows keep the id of the run that decided them, and are recovered whatever
    decided them: a job that goes on from its savepoint has the same ones in its state and brings them
    once more. Repeating it, or killing it, changes nothing.

    Args:
        layout: the lake, into which no other run writes.
        shards: of the logs to append to.
        replica: of the index.

    Returns:
        Number of rows recovered.

    Raises:
        DamagedFile: the journal or the index cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    files = list_journal(layout)
    recovered = sum(_append(layout, shards, rows, replica) for rows in _chunks(files, layout))
    replica.refresh()
    for entries in _chunks(files, layout):
        remove_orphans(layout, _orphans(entries, replica.rows_of))
    undo_unfinished(layout)
    _remove(files)
    return recovered


def prepare_recovery(layout: Layout, fingerprint: str) -> None:
    """Leave in the journal only the rows that a batch run recovers, and no object that none names.

    These are the rows of placed objects that the index lacks and that the run would decide the same
    way, one for each version of a source. The run resolves them together with its own rows, so that
    the lake does not depend on where the interrupted run had got to.

    Args:
        layout: the lake, into which no other run writes.
        fingerprint: of the run's configuration.

    Raises:
        DamagedFile: the journal or the index cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    undo_unfinished(layout)
    files = list_journal(layout)
    kept: dict[tuple[str, str], IndexRow] = {}
    for entries in _chunks(files, layout):
        existing = _existing_versions(layout, entries)
        for entry in _placed(layout, entries):
            version = entry.row.source_uri, entry.row.source_version
            if entry.fingerprint == fingerprint and version not in existing:
                kept[version] = min(entry.row, kept.get(version, entry.row), key=_order)
    named = {str(row.object_uri) for row in kept.values()}
    for entries in _chunks(files, layout):
        remove_orphans(layout, _orphans(entries, partial(_existing_rows, layout)) - named)
    rows = list(kept.values())
    written = [
        write_journal(layout, rows[start : start + ROWS_AT_ONCE], fingerprint)
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    _remove(uri for uri in files if uri not in written)


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
        return not _orphans(entries, self.replica.rows_of)


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
    by_shard = defaultdict(list)
    for entry in _placed(layout, entries):
        by_shard[shard_of(entry.row.identity, shards)].append(entry.row)
    return sum(
        len(append(layout, replica, LogShard(shards, shard), rows).rows)
        for shard, rows in sorted(by_shard.items())
    )


def _placed(layout: Layout, entries: Sequence[JournalRow]) -> list[JournalRow]:
    """Return the entries whose objects are where they say."""
    with ThreadPoolExecutor(THREADS) as pool:
        placed = pool.map(lambda entry: is_placed(entry.row, layout), entries)
        return [entry for entry, done in zip(entries, placed, strict=True) if done]


def _orphans(
    entries: Sequence[JournalRow], rows_of: Callable[[set[str]], Iterable[ExistingRow]]
) -> set[str]:
    """Return the objects that were placed and that no row of the index names."""
    placed = {str(entry.row.object_uri) for entry in entries if is_stored(entry.row)}
    return placed - {row.object_uri for row in rows_of({entry.row.identity for entry in entries})}


def _existing_versions(layout: Layout, entries: Sequence[JournalRow]) -> set[tuple[str, str]]:
    keys = pa.array(sorted({entry.row.object_key for entry in entries}), pa.string())
    return {
        (version.source_uri, version.source_version)
        for file in list_index(layout)
        for version in read_versions(file, keys)
    }


def _existing_rows(layout: Layout, identities: set[str]) -> Iterator[ExistingRow]:
    names = pa.array(sorted(identities), pa.string())
    for file in list_index(layout):
        yield from read_existing(file, names)


def _order(row: IndexRow) -> tuple[str, str, int]:
    return row.model_id or "", str(row.object_uri), row.ingested_at


def _remove(files: Iterable[str]) -> None:
    for uri in files:
        storage_of(uri).remove(uri)
