"""Decide rows by the answers of reviewers; what an answer means for a row, and which are not applied yet.

An answer is applied if a current or superseded row was decided by a person at the time of the answer.
Nothing else records it: a review can be killed at every step, and the next one applies what is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from transforms.core.labels import DEFAULT_LABELS, NOT_XRAY, REVIEW, LabelSet
from transforms.core.reasons import BY_PERSON, Reason, Stage, Status
from transforms.lake.index_files import list_history, read_index, read_matching, read_rows
from transforms.lake.label_sets import read_label_set
from transforms.lake.labels import (
    NOT_RADIOGRAPH,
    UNREADABLE,
    EffectiveLabel,
    Label,
    effective_labels,
    read_labels,
)
from transforms.lake.layout import Layout, partition_of
from transforms.lake.probabilities import PROBABILITY_COLUMNS
from transforms.lake.resolve_duplicates import NEVER_FIRST
from transforms.lake.schema import (
    HISTORY_SCHEMA,
    REGION_COLUMNS,
    IndexRow,
    VersionKey,
    from_table,
)
from transforms.lake.view_columns import VIEW_COLUMNS

DECISION_COLUMNS: Final = [
    *"status stage reason destination header_agrees region_code region_meaning predicted_label".split(),
    *"confidence ood_score model_id policy_id decided_by decided_at".split(),
    *PROBABILITY_COLUMNS,
    *REGION_COLUMNS,
    *VIEW_COLUMNS,
]
"""Columns that an undo restores."""
_BRIEF: Final = "content_sha256 status destination reason decided_by decided_at".split()


def decide_by_person(row: IndexRow, label: Label, labels: LabelSet = DEFAULT_LABELS) -> IndexRow:
    """Return a row as the answer of a reviewer decides it; `object_uri` is left as it is.

    Args:
        row: the row.
        label: the answer.
        labels: of the lake.
    """
    changed: dict[str, Any]
    if label.answer == NOT_RADIOGRAPH:
        changed = {
            "status": Status.NOT_XRAY,
            "reason": Reason.NOT_RADIOGRAPH,
            "destination": NOT_XRAY,
            "header_agrees": None,
        }
    elif label.answer == UNREADABLE:
        changed = {"status": Status.REVIEW, "reason": Reason.UNREADABLE, "destination": REVIEW}
    else:
        changed = {
            "status": Status.ROUTED,
            "reason": Reason.REVIEWED,
            "destination": label.answer,
            "header_agrees": labels.agree(row.header_label, label.answer),
        }
    if label.answer != UNREADABLE:
        region = labels.region_of(label.answer)
        changed["region_code"] = region.code if region else None
        changed["region_meaning"] = region.meaning if region else None
        if not labels.agree(row.predicted_label, label.answer):
            changed |= dict.fromkeys(REGION_COLUMNS)
    return replace(
        row,
        **changed,
        stage=Stage.REVIEW,
        decided_by=BY_PERSON,
        decided_at=label.answered_at,
    )


def contents_to_decide(
    layout: Layout, labels: Mapping[str, EffectiveLabel] | None = None
) -> dict[str, EffectiveLabel]:
    """Return the contents, by sha256, whose rows the answers may have to change.

    Args:
        layout: the lake.
        labels: the effective labels to look at; None reads those of the lake.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """
    labels = effective_labels(read_labels(layout)) if labels is None else labels
    if not labels:
        return {}

    def read(files: list[str]) -> dict[str, _Brief]:
        return {
            row["content_sha256"]: _Brief(row, labels[row["content_sha256"]])
            for row in _rows(files, labels, _BRIEF)
            if row["status"] not in NEVER_FIRST
        }

    rows = {c: brief for c, brief in read_index(layout, read).items() if not brief.is_applied}
    applied = _times_of_people(layout, sorted(rows))
    return {
        content: labels[content]
        for content, brief in rows.items()
        if not brief.is_applied_given(applied[content])
    }


def rows_to_decide(layout: Layout, labels: Mapping[str, EffectiveLabel]) -> list[IndexRow]:
    """Return current rows as the answers of reviewers decide them, for `change_decisions`.

    The caller holds the lake's locks, so that no other run changes the rows.

    Args:
        layout: the lake.
        labels: what `contents_to_decide` has returned.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """
    if not labels:
        return []
    contents = pa.array(sorted(labels), pa.string())

    def read(files: list[str]) -> list[IndexRow]:
        wanted = {"content_sha256": contents}
        return [row for row in read_rows(files, wanted) if row.status not in NEVER_FIRST]

    rows = read_index(layout, read)
    undone = {str(row.content_sha256) for row in rows if _is_undone(row, labels)}
    history = _history(layout, undone)
    label_set = read_label_set(layout)
    return list(filter(None, (_decided(row, labels, history, label_set) for row in rows)))


def _decided(
    row: IndexRow,
    labels: Mapping[str, EffectiveLabel],
    history: Mapping[VersionKey, Sequence[IndexRow]],
    label_set: LabelSet,
) -> IndexRow | None:
    """Return a row with its new decision, or None if it keeps the one that it has."""
    effective = labels[str(row.content_sha256)]
    if not _is_undone(row, labels):
        label = effective.label
        return None if label is None else decide_by_person(row, label, label_set)
    earlier = history[row.version_key]
    is_new = _answered_at(effective) not in {one.decided_at for one in earlier}
    if effective.label is not None and is_new:
        return decide_by_person(row, effective.label, label_set)
    for old in earlier:
        if not _is_undone(old, labels):
            return replace(row, **{name: getattr(old, name) for name in DECISION_COLUMNS})
    return None


def _is_undone(row: IndexRow, labels: Mapping[str, EffectiveLabel]) -> bool:
    """Return whether a row is decided by an answer that was taken back."""
    retracted = labels[str(row.content_sha256)].retracted
    return row.decided_by == BY_PERSON and row.decided_at in retracted


def _answered_at(effective: EffectiveLabel) -> int | None:
    return None if effective.label is None else effective.label.answered_at


class _Brief:
    """Whether the answers about a current row are applied."""

    def __init__(self, row: Mapping[str, Any], effective: EffectiveLabel) -> None:
        self._effective = effective
        self._by_person = row["decided_by"] == BY_PERSON
        self._decided_at = row["decided_at"]
        self._is_same = False
        if effective.label is not None:
            same = decide_by_person(_EMPTY, effective.label)
            columns = ("status", "destination", "reason")
            self._is_same = all(row[name] == getattr(same, name) for name in columns)

    @property
    def is_applied(self) -> bool:
        """Whether they are applied, as far as the current row shows."""
        label = self._effective.label
        if self._by_person and self._decided_at in self._effective.retracted:
            return False
        if label is None:
            return True
        return self._by_person and (self._is_same or self._decided_at > label.answered_at)

    def is_applied_given(self, times: Collection[int]) -> bool:
        """Return whether they are applied, given when persons decided superseded rows.

        The same answer of two reviewers is applied once, and a model may have overruled an answer.
        """
        was_applied = _answered_at(self._effective) in times
        return self._is_same and not was_applied if self._by_person else was_applied


def _times_of_people(layout: Layout, contents: Sequence[str]) -> dict[str, set[int]]:
    """Return when persons decided the superseded rows of some contents."""
    if not contents:
        return {}

    def read(files: list[str]) -> dict[str, set[int]]:
        times: dict[str, set[int]] = defaultdict(set)
        for row in _rows(files, contents, ["content_sha256", "decided_by", "decided_at"]):
            if row["decided_by"] == BY_PERSON:
                times[row["content_sha256"]].add(row["decided_at"])
        return times

    return read_index(layout, read, list_history)


def _history(layout: Layout, contents: set[str]) -> dict[VersionKey, list[IndexRow]]:
    """Return the superseded rows of some contents by source version, the latest first."""
    if not contents:
        return {}
    wanted = {"content_sha256": pa.array(sorted(contents), pa.string())}

    def read(files: list[str]) -> list[tuple[int, IndexRow]]:
        found: list[tuple[int, IndexRow]] = []
        for uri in files:
            for table in read_matching(uri, HISTORY_SCHEMA.names, wanted):
                times = table["superseded_at"].cast(pa.int64()).to_pylist()
                found += zip(times, from_table(table, partition_of(uri)), strict=True)
        return found

    rows: dict[VersionKey, list[IndexRow]] = defaultdict(list)
    for _, row in sorted(read_index(layout, read, list_history), key=lambda pair: -pair[0]):
        rows[row.version_key].append(row)
    return rows


def _rows(
    files: Iterable[str], contents: Iterable[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield columns of the rows of some contents; times are microseconds since 1970."""
    wanted = {"content_sha256": pa.array(sorted(contents), pa.string())}
    for uri in files if len(wanted["content_sha256"]) else ():
        for table in read_matching(uri, columns, wanted):
            position = columns.index("decided_at")
            times = table["decided_at"].cast(pa.int64())
            yield from table.set_column(position, "decided_at", times).to_pylist()


_EMPTY: Final = IndexRow(
    run_id="",
    object_key="",
    ingest_date="",
    ingested_at=0,
    router_version="",
    source_uri="",
    source_version="",
    source_size_bytes=0,
)
