"""Supersede: replaces current rows by later decisions, and keeps the old ones in `history/`.

The history file of a partition is written first, then the partition is rewritten, then objects that no
current row names are removed. An intent in the journal lists all of it, so that recovery can remove the
history of what was not rewritten, and the objects of what was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

import pyarrow as pa

from transforms.core.reasons import Status
from transforms.lake.append import keep_ends
from transforms.lake.files import exists, list_files, put_bytes, put_if_absent, read_bytes
from transforms.lake.index_files import list_index, matching, parquet_bytes, read_table
from transforms.lake.layout import NOT_XRAY, REVIEW, Layout, partition_of
from transforms.lake.orphans import remove_unnamed
from transforms.lake.resolve_duplicates import (
    WITHOUT_FIRST,
    by_identity,
    duplicate_of,
    is_stored,
)
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import (
    HISTORY_SCHEMA,
    PARTITION,
    SCHEMA,
    SEGMENT_MARK,
    IndexRow,
    conform,
    from_table,
    to_table,
)
from transforms.storage.schemes import join, storage_of

INTENT: Final = "supersede-"
"""How the names of intents in the journal begin."""
NOT_COMPARED: Final = set(
    "run_id ingest_date ingested_at router_version decided_at event_time".split()
)
"""Fields in which two equal decisions differ."""

_ROW_KEY: Final = ("source_uri", "source_version", "run_id")

Version = tuple[str, str]


@dataclass(frozen=True)
class Change:
    """A current row and what replaces it.

    Attributes:
        old: the current row.
        new: the later decision; None where another current row of the same version stays.
    """

    old: IndexRow
    new: IndexRow | None


def supersede(layout: Layout, decided: Sequence[IndexRow], run_id: str) -> int:
    """Let later decisions replace the current rows of the same versions of sources.

    Hold the lake's locks. Repeating it changes nothing. Objects that were placed for decisions which
    change nothing are left to `remove_unnamed`.

    Args:
        layout: the lake.
        decided: placed rows, each with the status that it would have alone; one for a version.
        run_id: of the run that decided them; its own rows are not replaced.

    Returns:
        How many of the later decisions equal the current ones.

    Raises:
        DamagedFile: the index cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    if not decided:
        return 0
    current = _rows_of_versions(layout, decided)
    later = {
        version: row
        for row in decided
        if (version := version_of(row)) in current and _run_of(current[version]) != run_id
    }
    identities = {row.identity for v, old in later.items() for row in (old, current[v])}
    changes = [
        change
        for change in regroup(rows_of_identities(layout, identities), later)
        if not _is_same(change)
    ]
    apply(layout, changes, run_id)
    return len(later.keys() - {version_of(change.old) for change in changes})


def version_of(row: IndexRow) -> Version:
    """Return the version of a source that a row is of."""
    return row.source_uri, row.source_version


def regroup(current: Iterable[IndexRow], later: Mapping[Version, IndexRow]) -> list[Change]:
    """Resolve duplicates again among current rows, some of which later decisions replace.

    The content's first stays the first if it is not replaced; else the first by source_uri of the
    later decisions is, and rows that were duplicates of the old one follow it.

    Args:
        current: all current rows of the identities that matter, of the old decisions and of the new.
        later: placed rows by version, with the status that each would have alone.

    Returns:
        A change for each replaced row, and for each duplicate that follows its first.
    """
    old = {version_of(row): row for row in current}
    new = {
        version: replace(later[version], ingest_date=row.ingest_date) if version in later else row
        for version, row in old.items()
    }
    resolved: dict[Version, IndexRow] = {}
    for group in by_identity(new.values()).values():
        contents: dict[str | None, list[IndexRow]] = defaultdict(list)
        for row in sorted(group, key=version_of):
            if row.status == Status.QUARANTINED:
                resolved[version_of(row)] = row
            else:
                contents[row.content_sha256].append(row)
        for rows in contents.values():
            for row in _with_one_first(rows, later, conflict=len(contents) > 1):
                resolved[version_of(row)] = row
    return [Change(old[v], row) for v, row in resolved.items() if row is not old[v]]


def _with_one_first(
    rows: Sequence[IndexRow], later: Mapping[Version, IndexRow], *, conflict: bool
) -> Iterator[IndexRow]:
    """Give the rows of one content, in order of source_uri, so that one of them is the first."""
    firsts = [row for row in rows if row.status not in WITHOUT_FIRST]
    kept = [row for row in firsts if version_of(row) not in later]
    first = (kept or firsts or [_promoted(rows[0])])[0]
    for row in rows:
        is_later = version_of(row) in later
        if version_of(row) == version_of(first):
            yield replace(first, conflict=conflict) if is_later else first
        elif is_later or row.status != Status.DUPLICATE:
            if is_stored(row) and not is_stored(first):
                yield row
            else:
                yield duplicate_of(row, first, conflict=conflict or bool(row.conflict))
        elif (row.object_uri, row.destination) == (first.object_uri, first.destination):
            yield row
        else:
            yield replace(row, object_uri=first.object_uri, destination=first.destination)


def _promoted(row: IndexRow) -> IndexRow:
    """Return a duplicate whose first is of another identity now, as the first of its content."""
    alone = {REVIEW: Status.REVIEW, NOT_XRAY: Status.NOT_XRAY}
    return replace(row, status=alone.get(str(row.destination), Status.ROUTED))


def apply(layout: Layout, changes: Sequence[Change], run_id: str) -> None:
    """Move old rows to the history, put the new ones in their place and remove unnamed objects.

    Args:
        layout: the lake.
        changes: of current rows.
        run_id: what supersedes them.
    """
    if not changes:
        return
    by_day: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_day[change.old.ingest_date].append(change)
    history = {day: _history_uri(layout, day, of_day, run_id) for day, of_day in by_day.items()}
    objects = sorted({str(c.old.object_uri) for c in changes if is_stored(c.old)})
    intent = _put_intent(layout, history, objects, run_id)
    now = time.time_ns() // 1000
    for day, of_day in sorted(by_day.items()):
        rows = _history_table([c.old for c in of_day], now, run_id)
        put_if_absent(history[day], parquet_bytes(rows), scratch=layout.scratch())
        _rewrite_partition(layout, day, of_day)
    remove_unnamed(layout, objects)
    storage_of(intent).remove(intent)


def _history_uri(layout: Layout, day: str, changes: Sequence[Change], run_id: str) -> str:
    names = sorted("\0".join((*version_of(c.old), c.old.run_id)) for c in changes)
    text = "\n".join((run_id, *names)).encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(text).hexdigest()[:20]
    return join(layout.history_partition(day), f"part-{digest}.parquet")


def _history_table(rows: Sequence[IndexRow], now: int, run_id: str) -> pa.Table:
    table = to_table(rows)
    stamps = HISTORY_SCHEMA.field("superseded_at").type
    table = table.append_column("superseded_at", pa.array([now] * len(rows), stamps))
    table = table.append_column("superseded_by", pa.array([run_id] * len(rows), pa.string()))
    return conform(table, HISTORY_SCHEMA)


def _rewrite_partition(layout: Layout, day: str, changes: Sequence[Change]) -> None:
    """Replace the files of one partition that have the old rows of changes."""
    removed = {(*version_of(c.old), c.old.run_id) for c in changes}
    keys = pa.array(sorted({c.old.object_key for c in changes}), pa.string())
    affected = [
        uri
        for uri in list_index(layout)
        if partition_of(uri) == day and any(matching(uri, ["object_key"], {"object_key": keys}))
    ]
    keep_ends(layout, affected)
    tables = [_without(read_table(uri), removed) for uri in affected]
    added = to_table([c.new for c in changes if c.new is not None])
    schema = added.schema
    for table in tables:
        schema = conform(table.schema.empty_table(), schema).schema
    parts = [conform(table, schema) for table in (*tables, added)]
    merged = pa.concat_tables(parts).replace_schema_metadata(None)
    rewrite(layout, day, affected, [merged] if len(merged) else [])


def _without(table: pa.Table, removed: set[tuple[str, str, str]]) -> pa.Table:
    names = zip(*(table[n].to_pylist() for n in _ROW_KEY), strict=True)
    kept = pa.array([name not in removed for name in names], pa.bool_())
    return table.filter(kept).drop_columns([PARTITION])


def _rows_of_versions(layout: Layout, decided: Sequence[IndexRow]) -> dict[Version, IndexRow]:
    keys = pa.array(sorted({row.object_key for row in decided}), pa.string())
    versions = {version_of(row) for row in decided}
    found = _scan(layout, {"object_key": keys})
    return {version_of(row): row for row in found if version_of(row) in versions}


def rows_of_identities(layout: Layout, identities: set[str]) -> list[IndexRow]:
    """Return the current rows of some identities."""
    names = pa.array(sorted(identities), pa.string())
    found = _scan(layout, {"sop_instance_uid": names, "content_sha256": names})
    return [row for row in found if row.identity in identities]


def _scan(layout: Layout, wanted: Mapping[str, pa.StringArray]) -> Iterator[IndexRow]:
    """Read the current rows that have a wanted value in one of some columns."""
    for uri in list_index(layout):
        for rows in matching(uri, SCHEMA.names, wanted):
            yield from from_table(rows, partition_of(uri))


def _run_of(row: IndexRow) -> str:
    return row.run_id.partition(SEGMENT_MARK)[0]


def _is_same(change: Change) -> bool:
    """Whether a later decision says what the current row says."""
    if change.new is None:
        return False
    names = [f.name for f in fields(IndexRow) if f.name not in NOT_COMPARED]
    return all(getattr(change.old, n) == getattr(change.new, n) for n in names)


@dataclass(frozen=True)
class Intent:
    """What a run of `apply` is about to do.

    Attributes:
        run_id: what supersedes.
        history: history file of each partition.
        objects: that old rows name.
    """

    run_id: str
    history: dict[str, str]
    objects: list[str]


def list_intents(layout: Layout) -> list[str]:
    """Return the intents in the journal."""
    prefix = join(layout.journal, INTENT)
    return [f.uri for f in list_files(layout.journal, ".json") if f.uri.startswith(prefix)]


def objects_under_way(layout: Layout) -> Iterator[str]:
    """Yield the objects that a run is about to remove, if no current row names them then."""
    for uri in list_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # superseding has ended meanwhile
            yield from _read_intent(uri).objects


def undo_unfinished(layout: Layout) -> None:
    """Complete what an interrupted run began to supersede, partition by partition.

    A partition that was rewritten stays so, and objects that no current row names are removed; the
    history of one that was not is removed, as its rows are current still.
    """
    for uri in list_intents(layout):
        intent = _read_intent(uri)
        for day, name in intent.history.items():
            history = join(layout.root, name)
            if exists(history) and _is_current(layout, day, history):
                storage_of(history).remove(history)
        remove_unnamed(layout, intent.objects)
        storage_of(uri).remove(uri)


def _read_intent(uri: str) -> Intent:
    return Intent(**json.loads(read_bytes(uri)))


def _is_current(layout: Layout, day: str, history: str) -> bool:
    """Whether the rows of a history file are in the index still."""
    columns = [*_ROW_KEY, "status", "object_uri", "model_id", "policy_id"]
    old = {tuple(row.values()) for row in read_table(history).select(columns).to_pylist()}
    for uri in list_index(layout):
        if partition_of(uri) == day:
            rows = read_table(uri).select(columns).to_pylist()
            if any(tuple(row.values()) in old for row in rows):
                return True
    return False


def _put_intent(layout: Layout, history: Mapping[str, str], objects: list[str], run_id: str) -> str:
    relative = {day: layout.relative(uri) for day, uri in history.items()}
    data = json.dumps(asdict(Intent(run_id, relative, objects)), sort_keys=True).encode()
    uri = join(layout.journal, f"{INTENT}{hashlib.sha256(data).hexdigest()[:20]}.json")
    put_bytes(uri, data, scratch=layout.scratch())
    return uri
