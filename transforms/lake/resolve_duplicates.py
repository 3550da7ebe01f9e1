"""The one keyed step that names the first, the duplicates and the conflicts of an identity.

Rows of one SOP Instance UID (of one content where there is none) meet here with what the lake's index
says of it. The result depends on the set of rows alone, not on their order, so that a bundle that runs
twice changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from transforms.core.reasons import Reason, Stage, Status
from transforms.lake.index_files import ExistingRow
from transforms.lake.schema import IndexRow

_Row = TypeVar("_Row", IndexRow, ExistingRow)

WITHOUT_FIRST: Final = frozenset({Status.DUPLICATE, Status.QUARANTINED})
"""Statuses of rows that no other row is a duplicate of."""


@dataclass(frozen=True)
class Resolution:
    """What a group came to.

    Attributes:
        rows: to be indexed; those of an identity in order of source_uri.
        orphans: object URIs that were placed for these rows and that no row names.
    """

    rows: list[IndexRow]
    orphans: list[str]


def resolve_all(rows: Iterable[IndexRow], existing: Iterable[ExistingRow]) -> Resolution:
    """Resolve rows of any identities; arguments as of `resolve`."""
    rows_of, existing_of = by_identity(rows), by_identity(existing)
    groups = [resolve(rows_of[i], existing_of.get(i, [])) for i in sorted(rows_of)]
    return Resolution(
        [row for group in groups for row in group.rows],
        [uri for group in groups for uri in group.orphans],
    )


def resolve(rows: Sequence[IndexRow], existing: Sequence[ExistingRow]) -> Resolution:
    """Resolve the new rows of one identity, in time linear in their number but for sorting.

    Args:
        rows: placed rows, each with the status that it would have alone.
        existing: the index's rows of the same identity. Content that has a first there stays where
            it is.
    """
    firsts = _firsts(existing)
    contents = {r.content_sha256 for r in rows if r.status != Status.QUARANTINED}
    contents |= {r.content_sha256 for r in existing if r.status != Status.QUARANTINED}
    conflict = len(contents) > 1
    resolved: list[IndexRow] = []
    for row in sorted(rows, key=lambda r: (r.source_uri, r.source_version)):
        if row.status == Status.QUARANTINED:
            resolved.append(row)
            continue
        key = row.content_sha256, is_stored(row)
        first = firsts.get(key) or firsts.get((row.content_sha256, True))
        if first is None:
            firsts[key] = row
            resolved.append(replace(row, conflict=conflict))
        else:
            resolved.append(duplicate_of(row, first, conflict=conflict))
    named = {r.object_uri for r in resolved} | {r.object_uri for r in existing}
    placed = {str(r.object_uri) for r in rows if is_stored(r)}
    return Resolution(resolved, sorted(placed - named))


def duplicate_of(row: IndexRow, first: IndexRow | ExistingRow, *, conflict: bool) -> IndexRow:
    """Return a row that says that its content is the object of another row."""
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
    """Whether the lake has the bytes of a row; False where only their source is indexed."""
    return row.object_uri != row.source_uri


def by_identity(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    """Group rows by identity."""
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.identity].append(row)
    return groups


def _firsts(
    existing: Sequence[ExistingRow],
) -> dict[tuple[str | None, bool], IndexRow | ExistingRow]:
    """Return the first row of each content, stored and only indexed ones apart."""
    firsts: dict[tuple[str | None, bool], IndexRow | ExistingRow] = {}
    for row in sorted(existing, key=lambda r: (r.source_uri, r.source_version)):
        if row.status not in WITHOUT_FIRST:
            firsts.setdefault((row.content_sha256, is_stored(row)), row)
    return firsts
