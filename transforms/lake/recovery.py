"""Recover the objects that an interrupted run placed without indexing them, and remove its orphans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

import pyarrow as pa

from transforms.lake.append import append, today
from transforms.lake.append_log import LogShard
from transforms.lake.existing_rows import ExistingRow, read_existing_rows, read_existing_versions
from transforms.lake.index_files import list_index, shard_of
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import (
    JournalEntry,
    is_placed,
    list_journal,
    read_journal,
    remove_journal_files,
    run_ids_in,
    write_journal,
)
from transforms.lake.layout import Layout
from transforms.lake.orphans import remove_orphans
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.schema import IndexRow, VersionKey, decision_order
from transforms.lake.supersede import finish_supersedes

CHUNK_ROWS: Final = 10_000
"""Number of journal rows that are processed together."""
THREADS: Final = 16


def recover(layout: Layout, run_id: str, shards: int, replica: IndexReplica) -> int:
    """Append the placed rows of the journal to the index, remove orphans and clear the journal.

    This is the recovery of streams. Rows are recovered under any fingerprint: a job that restarts from
    a savepoint has the same rows in its state and appends them once more. Idempotent, and safe to kill
    at every step.

    Args:
        layout: the lake, to which no other run writes.
        run_id: id of the run that recovers the rows and counts them; an interrupted run has no summary.
        shards: number of logs to append to.
        replica: replica of the lake's index.

    Returns:
        Number of rows recovered.

    Raises:
        DamagedFile: a journal or index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    replica.reload_tombstones()
    files = list_journal(layout)
    recovered = sum(
        _append(layout, run_id, shards, entries, replica) for entries in _chunks(files, layout)
    )
    if files:  # otherwise a process that only launches a stream needs no replica
        replica.refresh()
    for entries in _chunks(files, layout):
        remove_orphans(layout, _orphans(entries, replica.rows_of))
    finish_supersedes(layout)
    remove_journal_files(layout, files, today())
    return recovered


def prepare_recovery(layout: Layout, run_id: str, fingerprint: str) -> None:
    """Reduce the journal to the rows that a batch run recovers, and remove the orphans of the others.

    A run recovers a placed row that the index lacks and that it would decide in the same way, one per
    source version. It resolves recovered rows together with its own rows, so the resulting lake does not
    depend on when the earlier run was interrupted.

    Args:
        layout: the lake, to which no other run writes.
        run_id: id of the run, whose own journal files are kept: an engine may retry this step while
            the run is already placing objects.
        fingerprint: fingerprint of the run's configuration.

    Raises:
        DamagedFile: a journal or index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    finish_supersedes(layout)
    files = [uri for uri in list_journal(layout) if run_id not in run_ids_in(uri)]
    recovered: dict[VersionKey, IndexRow] = {}
    for entries in _chunks(files, layout):
        existing = _existing_versions(layout, entries)
        for entry in _placed(layout, entries):
            version = entry.row.version_key
            if entry.fingerprint == fingerprint and version not in existing:
                other = recovered.get(version, entry.row)
                recovered[version] = min(entry.row, other, key=decision_order)
    rows = list(recovered.values())
    referenced = {str(row.object_uri) for row in rows}
    for entries in _chunks(files, layout):
        remove_orphans(layout, _orphans(entries, partial(_existing_rows, layout)) - referenced)
    written = [
        write_journal(layout, rows[start : start + CHUNK_ROWS], fingerprint)
        for start in range(0, len(rows), CHUNK_ROWS)
    ]
    remove_journal_files(layout, (uri for uri in files if uri not in written))


def recovered_rows(layout: Layout, run_id: str) -> Iterator[IndexRow]:
    """Yield the rows that a batch run recovers, after `prepare_recovery`.

    If an engine has restarted the run, these include its own rows whose objects are placed.

    Args:
        layout: the lake.
        run_id: id of the run.

    Raises:
        DamagedFile: a journal file cannot be read.
        OSError: the lake's storage does not respond.
    """
    for entries in _chunks(list_journal(layout), layout):
        yield from (entry.row for entry in entries if entry.row.run_id != run_id)
        own = [entry for entry in entries if entry.row.run_id == run_id]
        yield from (entry.row for entry in _placed(layout, own))


def sweep_journal(layout: Layout, replica: IndexReplica) -> int:
    """Remove the journal files of a running stream whose rows are all in the index.

    A file with an orphan is kept: `recover` removes both.

    Returns:
        Number of files removed.

    Raises:
        DamagedFile: a journal or index file cannot be read.
    """
    replica.refresh()
    done = [
        uri for uri in list_journal(layout) if _is_indexed(list(read_journal(uri, layout)), replica)
    ]
    remove_journal_files(layout, done, today())
    return len(done)


def _is_indexed(entries: Sequence[JournalEntry], replica: IndexReplica) -> bool:
    """Return whether the index has a row for each entry and references its object."""
    versions = {entry.row.version_key for entry in entries}
    if replica.existing(list(versions)) != versions:
        return False
    return not _orphans(entries, replica.rows_of)


def _chunks(files: Sequence[str], layout: Layout) -> Iterator[list[JournalEntry]]:
    """Yield the entries of journal files in chunks of about `CHUNK_ROWS`."""
    chunk: list[JournalEntry] = []
    for uri in files:
        chunk += read_journal(uri, layout)
        if len(chunk) >= CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _append(
    layout: Layout,
    run_id: str,
    shards: int,
    entries: Sequence[JournalEntry],
    replica: IndexReplica,
) -> int:
    """Append the rows whose objects are placed; return the number of rows that the index lacked."""
    by_shard = defaultdict(list)
    for entry in _placed(layout, entries):
        row = replace(entry.row, run_id=run_id)
        by_shard[shard_of(row.identity, shards)].append(row)
    return sum(
        len(append(layout, replica, LogShard(shards, shard), rows).rows)
        for shard, rows in sorted(by_shard.items())
    )


def _placed(layout: Layout, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Return the entries whose objects are placed."""
    with ThreadPoolExecutor(THREADS) as pool:
        placed = pool.map(lambda entry: is_placed(entry.row, layout), entries)
        return [entry for entry, done in zip(entries, placed, strict=True) if done]


def _orphans(
    entries: Sequence[JournalEntry], rows_of: Callable[[set[str]], Iterable[ExistingRow]]
) -> set[str]:
    """Return the object URIs of entries that no row of the index references."""
    placed = {str(entry.row.object_uri) for entry in entries if is_stored(entry.row)}
    return placed - {row.object_uri for row in rows_of({entry.row.identity for entry in entries})}


def _existing_versions(layout: Layout, entries: Sequence[JournalEntry]) -> set[VersionKey]:
    keys = pa.array(sorted({entry.row.object_key for entry in entries}), pa.string())
    return {
        version.version_key
        for file in list_index(layout)
        for version in read_existing_versions(file, keys)
    }


def _existing_rows(layout: Layout, identities: set[str]) -> Iterator[ExistingRow]:
    names = pa.array(sorted(identities), pa.string())
    for file in list_index(layout):
        yield from read_existing_rows(file, names)
