"""Supersede current rows by later decisions, and keep the old rows in `history/`.

For each partition, the old rows are written to a history file, then the partition is rewritten. Finally,
objects that no current row references are removed. A write-ahead intent in the journal lists all of this:
recovery removes the history files of partitions that were not rewritten, and the objects that are no
longer referenced.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, TypeAlias

import pyarrow as pa

from transforms.core.labels import NOT_XRAY, REVIEW
from transforms.core.reasons import BY_PERSON, Status
from transforms.lake.append import seal_logs_ending_in
from transforms.lake.derived import has_derived, remove_derived
from transforms.lake.existing_rows import identity_columns
from transforms.lake.files import (
    exists,
    list_files,
    put_bytes,
    put_if_absent,
    read_json,
    remove_all,
)
from transforms.lake.index_files import (
    list_index,
    parquet_bytes,
    read_matching,
    read_rows,
    read_unified,
    unified_schema,
)
from transforms.lake.layout import Layout, partition_of
from transforms.lake.orphans import remove_unreferenced
from transforms.lake.resolve_duplicates import (
    NEVER_FIRST,
    as_duplicate,
    group_by_identity,
    is_stored,
)
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import (
    HISTORY_SCHEMA,
    IndexRow,
    VersionKey,
    conform,
    to_table,
)
from transforms.lake.structured_reports import has_reports, report_uri
from transforms.storage.schemes import join, storage_of

INTENT_PREFIX: Final = "supersede-"
"""Prefix of the names of intents in the journal."""
NOT_COMPARED: Final = frozenset(
    (
        "run_id ingest_date ingested_at router_version decided_at event_time source_state thumbnail "
        "header"
    ).split()
)
"""Fields that differ between two equal decisions."""

RowKey: TypeAlias = tuple[str, str, str]
_ROW_KEY: Final = ("source_uri", "source_version", "run_id")
"""Columns of a `RowKey`, which identifies a row."""


@dataclass(frozen=True)
class RowChange:
    """The replacement of a current row.

    Attributes:
        old: the current row.
        new: the row that replaces it; None if another current row of the same version remains.
    """

    old: IndexRow
    new: IndexRow | None


def supersede(
    layout: Layout, decided: Sequence[IndexRow], run_id: str, *, overrule_people: bool = False
) -> list[IndexRow]:
    """Replace current rows by later decisions for the same source versions. Idempotent.

    The caller holds the lake's locks. Decisions for versions without a current row are ignored. Objects
    of decisions that change nothing are kept; see `remove_unreferenced`.

    Args:
        layout: the lake.
        decided: placed rows, one per source version, each with the status it would have alone.
        run_id: id of the run that decided them, whose own rows are not replaced.
        overrule_people: whether to replace what a person decided.

    Returns:
        Current rows that equal the later decision, or that a person decided.

    Raises:
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    if not decided:
        return []
    current = current_rows(layout, decided)
    later = {
        row.version_key: row
        for row in decided
        if row.version_key in current and current[row.version_key].deciding_run != run_id
    }
    kept = [
        current[version]
        for version, row in later.items()
        if not overrule_people and is_protected(current[version], row)
    ]
    for row in kept:
        del later[row.version_key]
    identities = {row.identity for v, new in later.items() for row in (new, current[v])}
    affected = rows_of_identities(layout, identities)
    changes = [c for c in resolve_changes(affected, later) if not is_same_decision(c)]
    apply_changes(layout, changes, run_id)
    unchanged = later.keys() - {change.old.version_key for change in changes}
    return [*kept, *(current[version] for version in unchanged)]


def is_protected(current: IndexRow, decided: IndexRow) -> bool:
    """Return whether a new decision would overrule that of a person."""
    return current.decided_by == BY_PERSON and decided.decided_by != BY_PERSON


def resolve_changes(
    current: Iterable[IndexRow], later: Mapping[VersionKey, IndexRow]
) -> list[RowChange]:
    """Resolve duplicates among current rows, some of which are replaced by later decisions.

    The first row of a content stays the first unless it is replaced. Otherwise the first of the later
    decisions in order of source_uri becomes the first, and the duplicates of the old first reference it.

    Args:
        current: all current rows of the identities of old and new decisions.
        later: placed rows by version, each with the status it would have alone.

    Returns:
        A change for each replaced row, and for each other row that changes with it.
    """
    old = {row.version_key: row for row in current}
    new = {
        version: replace(later[version], ingest_date=row.ingest_date) if version in later else row
        for version, row in old.items()
    }
    resolved: dict[VersionKey, IndexRow] = {}
    for group in group_by_identity(new.values()).values():
        contents: dict[str | None, list[IndexRow]] = defaultdict(list)
        for row in sorted(group, key=lambda r: r.version_key):
            if row.status == Status.QUARANTINED:
                resolved[row.version_key] = row
            else:
                contents[row.content_sha256].append(row)
        for rows in contents.values():
            for row in _resolve_content(rows, later, conflict=len(contents) > 1):
                resolved[row.version_key] = row
    return [RowChange(old[v], row) for v, row in resolved.items() if row is not old[v]]


def _resolve_content(
    rows: Sequence[IndexRow], later: Mapping[VersionKey, IndexRow], *, conflict: bool
) -> Iterator[IndexRow]:
    """Yield the rows of one content, given in order of source_uri, with one of them as the first."""
    candidates = [row for row in rows if row.status not in NEVER_FIRST]
    kept = [row for row in candidates if row.version_key not in later]
    first = (kept or candidates or [_promoted(rows[0])])[0]
    for row in rows:
        is_later = row.version_key in later
        if row.version_key == first.version_key:
            yield replace(first, conflict=conflict) if is_later else first
        elif is_later or row.status != Status.DUPLICATE:
            if is_stored(row) and not is_stored(first):
                yield row
            else:
                yield as_duplicate(row, first, conflict=conflict or bool(row.conflict))
        elif (row.object_uri, row.destination) == (first.object_uri, first.destination):
            yield row
        else:
            yield replace(row, object_uri=first.object_uri, destination=first.destination)


def _promoted(row: IndexRow) -> IndexRow:
    """Return a duplicate, whose first now has another identity, as the first of its content."""
    status_of_sink = {REVIEW: Status.REVIEW, NOT_XRAY: Status.NOT_XRAY}
    return replace(row, status=status_of_sink.get(str(row.destination), Status.ROUTED))


def apply_changes(layout: Layout, changes: Sequence[RowChange], run_id: str) -> None:
    """Move old rows to the history, index the new ones and remove unreferenced objects.

    Structured reports about old decisions are removed, and objects derived for old destinations.

    Args:
        layout: the lake.
        changes: changes of current rows.
        run_id: value of `superseded_by`.

    Raises:
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    if not changes:
        return
    by_day: dict[str, list[RowChange]] = defaultdict(list)
    for change in changes:
        by_day[change.old.ingest_date].append(change)
    history = {day: _history_uri(layout, day, of_day, run_id) for day, of_day in by_day.items()}
    objects = sorted({str(c.old.object_uri) for c in changes if is_stored(c.old)})
    reports = sorted(filter(None, (report_uri(layout, c.old) for c in changes)))
    if not has_reports(layout):
        reports = []
    moved = {str(c.old.content_sha256) for c in changes if is_stored(c.old)}
    derived = sorted(moved) if has_derived(layout) else []
    intent_uri = _write_intent(layout, history, objects, reports, derived, run_id)
    now = time.time_ns() // 1000
    for day, of_day in sorted(by_day.items()):
        rows = _history_table([c.old for c in of_day], now, run_id)
        put_if_absent(
            history[day], parquet_bytes(rows), scratch=layout.scratch(), file_mode=layout.file_mode
        )
        _rewrite_partition(layout, day, of_day)
    remove_all(reports)
    remove_derived(layout, derived, changed_in=by_day)
    remove_unreferenced(layout, objects)
    storage_of(intent_uri).remove(intent_uri)


def _history_uri(layout: Layout, day: str, changes: Sequence[RowChange], run_id: str) -> str:
    keys = sorted("\0".join(_row_key(c.old)) for c in changes)
    text = "\n".join((run_id, *keys)).encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(text).hexdigest()[:20]
    return join(layout.history_partition(day), f"part-{digest}.parquet")


def _history_table(rows: Sequence[IndexRow], now_us: int, run_id: str) -> pa.Table:
    table = to_table(rows)
    time_type = HISTORY_SCHEMA.field("superseded_at").type
    table = table.append_column("superseded_at", pa.array([now_us] * len(rows), time_type))
    table = table.append_column("superseded_by", pa.array([run_id] * len(rows), pa.string()))
    return conform(table, HISTORY_SCHEMA)


def _rewrite_partition(layout: Layout, day: str, changes: Sequence[RowChange]) -> None:
    """Replace the files of a partition that have old rows of changes."""
    removed = {_row_key(c.old) for c in changes}
    keys = pa.array(sorted({c.old.object_key for c in changes}), pa.string())
    affected = [
        uri
        for uri in list_index(layout)
        if partition_of(uri) == day
        and any(read_matching(uri, ["object_key"], {"object_key": keys}))
    ]
    seal_logs_ending_in(layout, affected)
    added = conform(
        to_table([c.new for c in changes if c.new is not None]), unified_schema(affected)
    )
    kept = (_without_rows(table, removed) for table in read_unified(affected))
    rewrite(layout, day, affected, itertools.chain(kept, [added.replace_schema_metadata(None)]))


def _row_key(row: IndexRow) -> RowKey:
    return row.source_uri, row.source_version, row.run_id


def _without_rows(table: pa.Table, removed: set[RowKey]) -> pa.Table:
    kept = pa.array([key not in removed for key in _tuples(table, _ROW_KEY)], pa.bool_())
    return table.filter(kept)


def current_rows(layout: Layout, decided: Sequence[IndexRow]) -> dict[VersionKey, IndexRow]:
    """Return the current rows of the source versions of decided rows.

    Raises:
        DamagedFile: an index file cannot be read.
    """
    keys = pa.array(sorted({row.object_key for row in decided}), pa.string())
    versions = {row.version_key for row in decided}
    rows = _scan(layout, {"object_key": keys})
    return {row.version_key: row for row in rows if row.version_key in versions}


def rows_of_identities(layout: Layout, identities: set[str]) -> list[IndexRow]:
    """Return the current rows that have one of some identities.

    Raises:
        DamagedFile: an index file cannot be read.
    """
    rows = _scan(layout, identity_columns(pa.array(sorted(identities), pa.string())))
    return [row for row in rows if row.identity in identities]


def _scan(layout: Layout, wanted: Mapping[str, pa.StringArray]) -> Iterator[IndexRow]:
    """Yield the current rows that have a wanted value in at least one column of `wanted`."""
    yield from read_rows(list_index(layout), wanted)


def is_same_decision(change: RowChange) -> bool:
    """Return whether the new row of a change differs only in `NOT_COMPARED`."""
    if change.new is None:
        return False
    names = [f.name for f in fields(IndexRow) if f.name not in NOT_COMPARED]
    return all(getattr(change.old, n) == getattr(change.new, n) for n in names)


@dataclass(frozen=True)
class SupersedeIntent:
    """The write-ahead intent of `apply_changes`.

    Attributes:
        run_id: value of `superseded_by`.
        history: history file of each partition, relative to the lake.
        objects: URIs of the objects that old rows reference.
        reports: URIs of structured reports about old decisions.
        derived: content_sha256 of old rows, whose derived objects may have another destination.
    """

    run_id: str
    history: dict[str, str]
    objects: list[str]
    reports: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)


def list_supersede_intents(layout: Layout) -> list[str]:
    """Return the URIs of the intents in the journal."""
    prefix = join(layout.journal, INTENT_PREFIX)
    return [f.uri for f in list_files(layout.journal, ".json") if f.uri.startswith(prefix)]


def contents_to_move(layout: Layout) -> set[str]:
    """Return the content_sha256 of rows that an unfinished `apply_changes` replaces."""
    found: set[str] = set()
    for uri in list_supersede_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # finished since the listing
            found.update(_read_intent(uri).derived)
    return found


def unfinished_history(layout: Layout) -> set[str]:
    """Return the URIs of the history files that an unfinished `apply_changes` writes."""
    found: set[str] = set()
    for uri in list_supersede_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # finished since the listing
            found.update(map(layout.absolute, _read_intent(uri).history.values()))
    return found


def objects_to_remove(layout: Layout) -> Iterator[str]:
    """Yield objects that an unfinished `apply_changes` removes if no current row references them."""
    for uri in list_supersede_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # finished since the listing
            yield from _read_intent(uri).objects


def finish_supersedes(layout: Layout) -> None:
    """Finish interrupted calls of `apply_changes`, partition by partition.

    A rewritten partition is kept. The history file of a partition that was not rewritten is removed,
    because its rows are still current. Duplicates follow their first row if only one of them is in a
    rewritten partition. Objects that no current row references are removed.

    Raises:
        DamagedFile: an index or history file cannot be read.
    """
    for uri in list_supersede_intents(layout):
        intent = _read_intent(uri)
        for day, name in intent.history.items():
            history = join(layout.root, name)
            if exists(history) and _is_current(layout, day, history):
                remove_all([history])
        _resolve_rows_of(layout, intent)
        remove_all(intent.reports)
        remove_derived(layout, intent.derived, changed_in=intent.history)
        remove_unreferenced(layout, intent.objects)
        storage_of(uri).remove(uri)


def _resolve_rows_of(layout: Layout, intent: SupersedeIntent) -> None:
    """Resolve duplicates among the rows that still reference an object of an intent."""
    identities = {
        row.identity for row in _scan(layout, {"object_uri": pa.array(intent.objects, pa.string())})
    }
    if identities:
        changes = resolve_changes(rows_of_identities(layout, identities), {})
        apply_changes(layout, changes, intent.run_id)


def _read_intent(uri: str) -> SupersedeIntent:
    return SupersedeIntent(**read_json(uri))


def _is_current(layout: Layout, day: str, history: str) -> bool:
    """Return whether a row of a history file is still in the index."""
    columns = [*_ROW_KEY, "status", "object_uri", "model_id", "policy_id"]
    old: set[tuple[Any, ...]] = set()
    keys: list[str] = []
    for table in read_matching(history, [*columns, "object_key"], {}):
        old.update(_tuples(table, columns))
        keys += table["object_key"].to_pylist()
    wanted = {"object_key": pa.array(keys, pa.string())}
    return any(
        not old.isdisjoint(_tuples(table, columns))
        for uri in list_index(layout)
        if partition_of(uri) == day
        for table in read_matching(uri, columns, wanted)
    )


def _tuples(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)


def _write_intent(
    layout: Layout,
    history: Mapping[str, str],
    objects: list[str],
    reports: list[str],
    derived: list[str],
    run_id: str,
) -> str:
    relative = {day: layout.relative(uri) for day, uri in history.items()}
    intent = SupersedeIntent(run_id, relative, objects, reports, derived)
    data = json.dumps(asdict(intent), sort_keys=True).encode()
    uri = join(layout.journal, f"{INTENT_PREFIX}{hashlib.sha256(data).hexdigest()[:20]}.json")
    put_bytes(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri
