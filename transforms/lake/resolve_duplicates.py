"""The one keyed step that names the first, the duplicates and the conflicts of an identity.

Rows of one SOP Instance UID (of one content where there is none) meet here with what the lake's
index says of it. The result depends on the set of rows alone, not on their order, so a bundle that
runs twice changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from transforms.core.reasons import Reason, Stage, Status
from transforms.lake.index_files import ExistingRow
from transforms.lake.schema import IndexRow

_Row = TypeVar("_Row", IndexRow, ExistingRow)

REPROCESS_NONE, REPROCESS_MODEL, REPROCESS_POLICY, REPROCESS_ALL = (
    "none", "model", "policy", "all",
)  # fmt: skip


@dataclass(frozen=True)
class Resolution:
    """What a group came to.

    Attributes:
        rows: to be indexed; those of an identity in order of source_uri.
        strays: object URIs that were placed, by this run or a killed one, and that no row names.
    """

    rows: list[IndexRow]
    orphans: list[str]


def resolve_all(
    rows: Iterable[IndexRow],
    known: Iterable[ExistingRow],
    *,
    held: Iterable[IndexRow] = (),
    reprocess: str = REPROCESS_NONE,
) -> Resolution:
    """Settle rows of any identities; arguments as of `resolve`."""
    rows_of, known_of, held_of = _by_identity(rows), _by_identity(known), _by_identity(held)
    groups = [
        resolve(rows_of[i], known_of[i], held=held_of[i], reprocess=reprocess)
        for i in sorted({*rows_of, *held_of})
    ]
    return Resolution(
        [row for group in groups for row in group.rows],
        [uri for group in groups for uri in group.orphans],
    )


def resolve(
    rows: Sequence[IndexRow],
    known: Sequence[ExistingRow],
    *,
    held: Sequence[IndexRow] = (),
    reprocess: str = REPROCESS_NONE,
) -> Resolution:
    """Settle the rows of one identity.

    Args:
        rows: placed rows of this run, each with the status that it would have alone.
        known: the lake's rows of the same identity.
        held: rows that are not written, though an object may have been placed for them: those that
            the lake has from before a forced second look, and those of a killed run.
        reprocess: as on the command line. With "none", content that any model placed before stays
            where it is; otherwise only rows of the same model count as earlier ones.
    """
    contents = {r.content_sha256 for r in rows if r.status != Status.QUARANTINED}
    contents |= {k.content_sha256 for k in known if k.status != Status.QUARANTINED}
    resolved: list[IndexRow] = []
    for row in sorted(rows, key=lambda r: (r.source_uri, r.source_version)):
        if row.status == Status.QUARANTINED:
            resolved.append(row)
            continue
        conflict = len(contents) > 1
        first = _first(row, resolved, known, reprocess)
        if first is None:
            resolved.append(replace(row, conflict=conflict))
            continue
        resolved.append(
            replace(
                row,
                status=Status.DUPLICATE,
                stage=Stage.SETTLE,
                reason=Reason.SAME_CONTENT,
                destination=first.destination,
                object_uri=first.object_uri,
                conflict=conflict,
            )
        )
    named = {r.object_uri for r in resolved} | {k.object_uri for k in known}
    placed = {r.object_uri for r in (*rows, *held) if r.object_uri != r.source_uri}
    kept = {below_root(uri) for uri in named if uri is not None}
    orphans = sorted(
        uri for uri in placed - named if uri is not None and below_root(uri) not in kept
    )
    return Resolution(resolved, orphans)


def _by_identity(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.identity].append(row)
    return groups


def below_root(object_uri: str) -> str:
    """An object's name below its root.

    A lake that was moved names its objects by another root, and what stands there is the very object
    that a row means.
    """
    parts = object_uri.rpartition("/objects/")
    return "".join(parts[1:]) if parts[1] else object_uri[-len("/ab/.dcm") - 64 :]


def _first(
    row: IndexRow, resolved: Sequence[IndexRow], known: Sequence[ExistingRow], reprocess: str
) -> IndexRow | ExistingRow | None:
    """The row that the lake's object of this content belongs to, if it is another one."""
    passed_over = {Status.DUPLICATE, Status.QUARANTINED}
    stored = row.object_uri != row.source_uri
    for earlier in sorted(known, key=lambda k: (k.source_uri, k.source_version)):
        if earlier.content_sha256 != row.content_sha256 or earlier.status in passed_over:
            continue
        if stored and earlier.object_uri == earlier.source_uri:
            continue  # indexed where it stood: the lake holds no bytes of it
        if reprocess == REPROCESS_NONE or earlier.model_id == row.model_id:
            return earlier
    for mine in resolved:
        if mine.content_sha256 == row.content_sha256 and mine.status not in passed_over:
            return mine
    return None
