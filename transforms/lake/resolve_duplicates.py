"""Resolve duplicates: determine the first row, the duplicates and the conflicts of each identity.

New rows are compared with each other and with the existing rows of the same identity. The result depends
on the set of rows, not on their order, so a retried bundle gives the same result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, TypeVar

from transforms.core.reasons import Reason, Stage, Status
from transforms.lake.existing_rows import ExistingRow
from transforms.lake.schema import IndexRow, decision_order

_Row = TypeVar("_Row", IndexRow, ExistingRow)

NEVER_FIRST: Final = frozenset({Status.DUPLICATE, Status.QUARANTINED})
"""Statuses of rows of which no other row can be a duplicate."""


@dataclass(frozen=True)
class Resolution:
    """Result of duplicate resolution.

    Attributes:
        rows: rows to index; those of one identity in order of source_uri.
        orphans: URIs of objects that were placed for these rows and that no row references.
    """

    rows: list[IndexRow]
    orphans: list[str]


def resolve_all(rows: Iterable[IndexRow], existing: Iterable[ExistingRow]) -> Resolution:
    """Resolve new rows of any identities; see `resolve`."""
    new, old = group_by_identity(rows), group_by_identity(existing)
    groups = [resolve(new[identity], old.get(identity, [])) for identity in sorted(new)]
    return Resolution(
        [row for group in groups for row in group.rows],
        [uri for group in groups for uri in group.orphans],
    )


def resolve(rows: Sequence[IndexRow], existing: Sequence[ExistingRow]) -> Resolution:
    """Resolve the new rows of one identity, in O(n log n) time.

    The first row of a content, in order of source_uri, keeps its status; all others become duplicates of
    it. If the identity has several contents, each new row has a conflict.

    Args:
        rows: placed rows, each with the status it would have alone. Of several rows of a source version,
            which an engine can produce when it retries, one is kept.
        existing: rows of the index with the same identity. A content that has a first row there keeps it.
    """
    firsts = _firsts(existing)
    contents = {r.content_sha256 for r in rows if r.status != Status.QUARANTINED}
    contents |= {r.content_sha256 for r in existing if r.status != Status.QUARANTINED}
    conflict = len(contents) > 1
    resolved: list[IndexRow] = []
    for row in _one_per_version(rows):
        if row.status == Status.QUARANTINED:
            resolved.append(row)
            continue
        key = row.content_sha256, is_stored(row)
        first = firsts.get(key) or firsts.get((row.content_sha256, True))
        if first is None:
            firsts[key] = row
            resolved.append(replace(row, conflict=conflict))
        else:
            resolved.append(as_duplicate(row, first, conflict=conflict))
    referenced = {r.object_uri for r in resolved} | {r.object_uri for r in existing}
    placed = {str(r.object_uri) for r in rows if is_stored(r)}
    return Resolution(resolved, sorted(placed - referenced))


def as_duplicate(row: IndexRow, first: IndexRow | ExistingRow, *, conflict: bool) -> IndexRow:
    """Return a row as a duplicate of another row, whose object it references."""
    return replace(
        row,
        status=Status.DUPLICATE,
        stage=Stage.SETTLE,
        reason=Reason.SAME_CONTENT,
        destination=first.destination,
        object_uri=first.object_uri,
        conflict=conflict,
    )


def is_stored(row: IndexRow | ExistingRow) -> bool:
    """Return whether the object of a row is in a sink; False if only its source is indexed."""
    return row.object_uri != row.source_uri


def group_by_identity(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    """Group rows by identity."""
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.identity].append(row)
    return groups


def _one_per_version(rows: Iterable[IndexRow]) -> Iterator[IndexRow]:
    """Yield the first row of each source version by `decision_order`, in order of version."""
    ordered = sorted(rows, key=lambda row: (row.version_key, decision_order(row)))
    for _, versions in groupby(ordered, key=lambda row: row.version_key):
        yield next(versions)


def _firsts(
    existing: Sequence[ExistingRow],
) -> dict[tuple[str | None, bool], IndexRow | ExistingRow]:
    """Return the first row of each content, separately for stored and only indexed objects."""
    firsts: dict[tuple[str | None, bool], IndexRow | ExistingRow] = {}
    for row in sorted(existing, key=lambda r: r.version_key):
        if row.status not in NEVER_FIRST:
            firsts.setdefault((row.content_sha256, is_stored(row)), row)
    return firsts
