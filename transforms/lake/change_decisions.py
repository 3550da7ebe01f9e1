"""Change decisions: move objects to the sinks of new decisions, and supersede their rows.

Objects are placed before rows change, and removed from their old sinks afterwards. The new rows are in
the journal before anything is placed: recovery removes placed objects whose rows were not replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from transforms.core.object_ref import Failure, failure_of
from transforms.core.reasons import ProcessingFailure, Reason, Stage, Status
from transforms.core.storage_failures import read_failure
from transforms.lake.files import copy_server_side, put_copy, put_link
from transforms.lake.journal import (
    list_journal,
    read_journal,
    remove_journal_files,
    write_journal,
)
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.orphans import remove_unreferenced
from transforms.lake.resolve_duplicates import NEVER_FIRST, is_stored
from transforms.lake.schema import IndexRow, VersionKey
from transforms.lake.supersede import (
    RowChange,
    apply_changes,
    current_rows,
    finish_supersedes,
    is_protected,
    is_same_decision,
    list_supersede_intents,
    resolve_changes,
    rows_of_identities,
)
from transforms.storage.schemes import is_local, storage_of

FINGERPRINT: Final = "decisions"
"""Begins the names of journal files; no run has this fingerprint, so none recovers their rows."""
THREADS: Final = 8
CHANGEABLE: Final = frozenset({Status.ROUTED, Status.REVIEW, Status.NOT_XRAY})
"""Statuses between which a decision can change."""
_NO_LINK: Final = frozenset(
    {Reason.OTHER_FILE_SYSTEM, Reason.PERMISSION_DENIED, Reason.WRITE_FAILED}
)
"""Reasons for which an object is copied instead: the file system has no hard links, or none left."""


@dataclass(frozen=True)
class ChangeResult:
    """Result of `change_decisions`.

    Attributes:
        changed: the new rows of decisions that changed, without those of duplicates that follow.
        unchanged: number of decisions that equal the current one.
        protected: number of decisions that would have overruled a person.
        ignored: number of decisions about versions without a current row, or about duplicates and
            quarantined objects.
        moved: number of objects that were placed in another sink.
        failures: objects that could not be placed; their decisions are unchanged.
    """

    changed: tuple[IndexRow, ...] = ()
    unchanged: int = 0
    protected: int = 0
    ignored: int = 0
    moved: int = 0
    failures: tuple[Failure, ...] = ()


def prepare_changes(layout: Layout) -> None:
    """Make a lake ready for `change_decisions`: migrate it, and finish or undo interrupted changes.

    The caller holds the lake's locks. The journals of interrupted runs are kept for the next run.

    Raises:
        ForeignLake: as `open_lake`.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    open_lake(layout)
    finish_supersedes(layout)
    for uri in _own_journal_files(layout):
        remove_unreferenced(layout, {str(e.row.object_uri) for e in read_journal(uri, layout)})
        remove_journal_files(layout, [uri])


def is_change_unfinished(layout: Layout) -> bool:
    """Return whether `prepare_changes` has something to complete, or a run is changing decisions."""
    return bool(list_supersede_intents(layout) or _own_journal_files(layout))


def _own_journal_files(layout: Layout) -> list[str]:
    prefix = f"{FINGERPRINT}-"
    return [uri for uri in list_journal(layout) if uri.rpartition("/")[2].startswith(prefix)]


def change_decisions(
    layout: Layout, decided: Sequence[IndexRow], run_id: str, *, overrule_people: bool = False
) -> ChangeResult:
    """Change the decisions of current rows. Idempotent, and safe to kill at every step.

    The caller holds the lake's locks and has called `prepare_changes`. Duplicates of a content follow its
    first row. Objects that are only indexed stay where they are.

    Args:
        layout: the lake.
        decided: current rows, one per source version, each with the columns of its new decision.
            `run_id`, `object_uri` and `conflict` are set here.
        run_id: id of this change, which no earlier change of these rows has.
        overrule_people: whether a decision by a model or policy replaces one by a person.

    Raises:
        ValueError: a new status is not one of `CHANGEABLE`, or an earlier change had this `run_id`.
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    if not decided:
        return ChangeResult()
    current = current_rows(layout, decided)
    later: dict[VersionKey, IndexRow] = {}
    unchanged = protected = ignored = 0
    for row in decided:
        old = current.get(row.version_key)
        if old is None or old.status in NEVER_FIRST:
            ignored += 1
        elif is_protected(old, row) and not overrule_people:
            protected += 1
        else:
            new = _new_row(old, row, layout, run_id)
            if is_same_decision(RowChange(old, new)):
                unchanged += 1
            elif old.deciding_run == run_id:
                raise ValueError(f"{row.object_key}: change {run_id} has decided it differently")
            else:
                later[row.version_key] = new
    failures, moved, journal_files = _place(layout, current, later)
    affected = rows_of_identities(layout, {row.identity for row in later.values()})
    changes = [c for c in resolve_changes(affected, later) if not is_same_decision(c)]
    apply_changes(layout, changes, run_id)
    kept = {str(change.new.object_uri) for change in changes if change.new is not None}
    remove_unreferenced(layout, moved - kept)
    remove_journal_files(layout, journal_files)
    changed = tuple(c.new for c in changes if c.new is not None and c.new.version_key in later)
    return ChangeResult(changed, unchanged, protected, ignored, len(moved), tuple(failures))


def _new_row(old: IndexRow, decided: IndexRow, layout: Layout, run_id: str) -> IndexRow:
    """Return a decided row with the URI of its object; one that keeps sink and region is not moved."""
    if decided.status not in CHANGEABLE:
        raise ValueError(f"{decided.object_key}: a decision cannot change to {decided.status}")
    object_uri = old.object_uri
    destination, region = str(decided.destination), decided.predicted_region
    if is_stored(old) and (
        destination != old.destination or layout.is_misplaced(str(object_uri), destination, region)
    ):
        parts = replace(old, destination=destination).uri_parts
        object_uri = layout.relative(layout.object_uri(*parts, region=region))
    return replace(
        decided,
        run_id=run_id,
        ingest_date=old.ingest_date,
        object_uri=object_uri,
        conflict=old.conflict,
    )


def _place(
    layout: Layout, current: Mapping[VersionKey, IndexRow], later: dict[VersionKey, IndexRow]
) -> tuple[list[Failure], set[str], list[str]]:
    """Place the objects of new rows in their sinks, and drop the rows whose objects failed.

    Returns:
        Failures, the URIs of placed objects as in the column `object_uri`, and the journal files.
    """
    moving = [row for v, row in later.items() if row.object_uri != current[v].object_uri]
    if not moving:
        return [], set(), []
    journal_files = [write_journal(layout, moving, FINGERPRINT)]
    failures: list[Failure] = []
    placed: set[str] = set()
    sources = [str(current[row.version_key].object_uri) for row in moving]
    with ThreadPoolExecutor(THREADS) as pool:
        errors = pool.map(partial(_move, layout), sources, moving)
        for row, error in zip(moving, errors, strict=True):
            if error is None:
                placed.add(str(row.object_uri))
            else:
                failures.append(failure_of(row.source_uri, error, log_uris=False))
                del later[row.version_key]
    return failures, placed, journal_files


def _move(layout: Layout, old_uri: str, row: IndexRow) -> ProcessingFailure | None:
    """Place the object of a row from its old sink; return the failure, or None."""
    try:
        place_again(layout, layout.absolute(old_uri), row)
    except ProcessingFailure as error:
        return error
    return None


def place_again(layout: Layout, source: str, row: IndexRow) -> None:
    """Place the object of a row from another place of the same content, if it is absent.

    The object is hard-linked within a file system, copied by the store within one that supports this, and
    copied and compared with its sha256 otherwise.

    Args:
        layout: the lake.
        source: path or URI of the object.
        row: row with the new `object_uri`.

    Raises:
        ProcessingFailure: the source is missing or has other bytes, or the storage refused the write.
    """
    target, sha256 = layout.absolute(str(row.object_uri)), str(row.content_sha256)
    scratch = layout.scratch(row.destination)
    try:
        found = storage_of(source).stat(source)
    except OSError as error:
        raise read_failure(error, Stage.PLACE) from error
    if found is None:
        raise ProcessingFailure(Stage.PLACE, Reason.DISAPPEARED)
    if is_local(source) and is_local(target):
        try:
            put_link(
                target,
                source,
                found.version,
                sha256,
                scratch=scratch,
                file_mode=layout.file_mode,
            )
            return
        except ProcessingFailure as error:
            if error.reason not in _NO_LINK:
                raise
    elif copy_server_side(target, source, found.version, sha256):
        return
    put_copy(target, source, sha256, scratch=scratch, file_mode=layout.file_mode)
