"""Store the answers of reviewers: `labels/answered_date=YYYY-MM-DD/*.parquet`, one small file an answer.

An answer is never changed: an undo is another label, which names the one that it retracts. `compact`
merges the files of a day. Between the steps of a merge, a label can be in two files; its `label_id` shows
that it is one.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from transforms.core.labels import DEFAULT_LABELS, LabelSet
from transforms.lake.files import list_files, put_bytes, remove_all
from transforms.lake.index_files import open_index_file, parquet_bytes
from transforms.lake.layout import Layout
from transforms.lake.schema import SCHEMA, IndexRow, conform, plain_rows
from transforms.storage.schemes import join

NOT_RADIOGRAPH: Final = "not_radiograph"
UNREADABLE: Final = "unreadable"
UNDO: Final = "undo"
OTHER_ANSWERS: Final = (NOT_RADIOGRAPH, UNREADABLE)
"""Answers that name no label."""

REVIEWER_PATTERN: Final = re.compile(r"\w[\w.@ -]{0,39}")
"""Nickname of a reviewer: letters, digits, `_ . @ -` and spaces, at most 40 characters."""
LABEL_ID_PATTERN: Final = re.compile(r"[0-9a-f]{32}")
PARTITION: Final = "answered_date"
MERGED: Final = "part-"
"""Prefix of the names of merged label files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One answer of a reviewer, and what the reviewer was shown. The columns are in `LABEL_SCHEMA`."""

    label_id: str
    reviewer: str
    answered_at: int
    answer: str
    retracts: str | None = None
    object_key: str
    content_sha256: str
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    patient_key: str | None = None
    model_id: str | None = None
    policy_id: str | None = None
    predicted_label: str | None = None
    confidence: float | None = None
    prob_abdominal: float | None = None
    prob_adult_chest: float | None = None
    prob_pediatric_chest: float | None = None
    prob_spine: float | None = None
    prob_others: float | None = None
    ood_score: float | None = None
    header_label: str | None = None
    destination: str | None = None
    reason: str | None = None
    probabilities: tuple[tuple[str, float], ...] | None = None

    @property
    def answered_date(self) -> str:
        """The partition: day of the answer in UTC, YYYY-MM-DD."""
        return f"{datetime.fromtimestamp(self.answered_at / 1e6, UTC):%Y-%m-%d}"


_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
_OWN: Final = {
    "label_id": (_TEXT, "32 hex digits that identify the answer"),
    "reviewer": (_TEXT, "Nickname of the reviewer"),
    "answered_at": (_TIME, "Time of the answer, UTC"),
    "answer": (_TEXT, f"A label, {NOT_RADIOGRAPH}, {UNREADABLE}, or {UNDO}"),
    "retracts": (_TEXT, f"label_id of the answer that is taken back; null unless answer is {UNDO}"),
    "destination": (_TEXT, "Sink of the image when it was shown"),
    "reason": (_TEXT, "Reason for the status of the image when it was shown"),
}
LABEL_SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field(name, _OWN[name][0], metadata={"description": _OWN[name][1]})
        if name in _OWN
        else SCHEMA.field(name)
        for name in (f.name for f in fields(Label))
    ]
)
LATER_COLUMNS: Final = ("probabilities",)
"""Columns that later releases have added; files may lack them."""
_SHOWN: Final = [name for name in LABEL_SCHEMA.names if name in SCHEMA.names]
"""Columns of labels that are those of the row that was shown."""


def answers_of(labels: LabelSet) -> tuple[str, ...]:
    """Return what a reviewer can answer about an image.

    Args:
        labels: of the lake; see `lake.label_sets`.
    """
    return (*labels.names, *OTHER_ANSWERS)


def new_label(
    row: IndexRow,
    answer: str,
    reviewer: str,
    answered_at: int,
    *,
    label_id: str | None = None,
    retracts: str | None = None,
    labels: LabelSet = DEFAULT_LABELS,
) -> Label:
    """Return the answer of a reviewer about the image of a row.

    Args:
        row: the row that was shown.
        answer: one of `answers_of(labels)`, or `UNDO`.
        reviewer: nickname; see `REVIEWER_PATTERN`.
        answered_at: microseconds since 1970, UTC.
        label_id: 32 hex digits; random if None.
        retracts: `label_id` of the answer to take back, for `UNDO`.
        labels: of the lake.

    Raises:
        ValueError: an argument is invalid.
    """
    known = answers_of(labels)
    if answer not in (*known, UNDO):
        raise ValueError(f"{answer!r} is not one of {', '.join(known)}")
    if (answer == UNDO) != (retracts is not None):
        raise ValueError(f"{UNDO!r}, and only it, retracts an answer")
    if not REVIEWER_PATTERN.fullmatch(reviewer):
        raise ValueError("a reviewer is named by 1 to 40 letters, digits, spaces, or _ . @ -")
    if label_id is not None and not LABEL_ID_PATTERN.fullmatch(label_id):
        raise ValueError("a label_id has 32 hex digits")
    shown: dict[str, Any] = {name: getattr(row, name) for name in _SHOWN}
    return Label(
        **shown,
        label_id=label_id or uuid.uuid4().hex,
        reviewer=reviewer,
        answered_at=answered_at,
        answer=answer,
        retracts=retracts,
    )


def append_label(layout: Layout, label: Label) -> bool:
    """Write a label if it is absent; it is durable when this returns.

    Returns:
        True if the label is new, False if it is stored already.

    Raises:
        ProcessingFailure: the storage refused the write, or has another label of this `label_id`.
    """
    return put_bytes(
        _label_uri(layout, label),
        parquet_bytes(to_table([label])),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def remove_label(layout: Layout, label: Label) -> None:
    """Remove a label that `append_label` has just written, because its image is erased. Idempotent."""
    remove_all([_label_uri(layout, label)])


def append_labels(layout: Layout, labels: Sequence[Label]) -> list[str]:
    """Write labels, none of which is stored yet, in one file a day; they are durable when this returns.

    Returns:
        URIs of the files.

    Raises:
        ProcessingFailure: the storage refused a write; the labels of a day are written or not.
    """
    days: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        days[label.answered_date].append(label)
    uris = []
    for day, of_day in sorted(days.items()):
        data = parquet_bytes(to_table(of_day))
        uris.append(_merged_uri(layout, day, data))
        put_bytes(uris[-1], data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return uris


def read_labels(layout: Layout) -> list[Label]:
    """Return all labels of a lake, each once, in order of time; while `compact` may merge them.

    Raises:
        DamagedFile: a file cannot be read.
        OSError: the folder cannot be listed.
    """
    while True:
        files = list_labels(layout)
        try:
            found = {label.label_id: label for uri in files for label in read_label_file(uri)}
        except FileNotFoundError:
            if list_labels(layout) == files:
                raise
            continue
        return sorted(found.values(), key=lambda label: (label.answered_at, label.label_id))


def list_labels(layout: Layout) -> list[str]:
    """Return the URIs of the label files of a lake, sorted.

    Raises:
        OSError: the folder cannot be listed.
    """
    prefix = join(layout.labels, f"{PARTITION}=")
    return [f.uri for f in list_files(layout.labels, ".parquet") if f.uri.startswith(prefix)]


def read_label_file(uri: str) -> list[Label]:
    """Return the labels in a file; columns unknown to this release are ignored.

    Raises:
        FileNotFoundError: it does not exist; `compact` may have merged it.
        DamagedFile: it cannot be read.
    """
    with open_index_file(uri) as file:
        table = file.read()
    known = conform(table, LABEL_SCHEMA).select(LABEL_SCHEMA.names)
    position, times = known.column_names.index("answered_at"), known["answered_at"]
    known = known.set_column(position, "answered_at", times.cast(pa.int64()))
    return [Label(**row) for row in plain_rows(known)]


def to_table(labels: Sequence[Label]) -> pa.Table:
    """Return labels as a table of `LABEL_SCHEMA`."""
    columns = {name: [getattr(one, name) for one in labels] for name in LABEL_SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=LABEL_SCHEMA)


@dataclass(frozen=True)
class EffectiveLabel:
    """The answers about one content that nobody has taken back.

    Attributes:
        label: the latest answer, or None if all are taken back.
        answers: the latest answer of each reviewer, by nickname.
        retracted: `answered_at` of each answer that was taken back.
    """

    label: Label | None
    answers: Mapping[str, str]
    retracted: frozenset[int]

    @property
    def disagrees(self) -> bool:
        """Whether reviewers have given different answers."""
        return len(set(self.answers.values())) > 1


def effective_labels(labels: Iterable[Label]) -> dict[str, EffectiveLabel]:
    """Return the effective label of each content that was answered about, by `content_sha256`."""
    by_content: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda one: (one.answered_at, one.label_id)):
        by_content[label.content_sha256].append(label)
    return {content: _effective(of_content) for content, of_content in by_content.items()}


def _effective(labels: Sequence[Label]) -> EffectiveLabel:
    undone = {label.retracts for label in labels if label.answer == UNDO}
    kept = [one for one in labels if one.answer != UNDO and one.label_id not in undone]
    return EffectiveLabel(
        kept[-1] if kept else None,
        {label.reviewer: label.answer for label in kept},
        frozenset(label.answered_at for label in labels if label.label_id in undone),
    )


def merge_labels(layout: Layout, before: str) -> int:
    """Merge the label files of each day before a day; safe to kill, and while labels are appended.

    The caller holds the lake's `LOCK`.

    Args:
        layout: the lake.
        before: YYYY-MM-DD.

    Returns:
        Number of files that were merged.

    Raises:
        DamagedFile: a file cannot be read; its day is unchanged.
        ProcessingFailure: the storage refused a write.
    """
    days: dict[str, list[str]] = defaultdict(list)
    for uri in list_labels(layout):
        days[uri.rpartition("/")[0].rpartition(f"{PARTITION}=")[2]].append(uri)
    merged = 0
    for day, files in sorted(days.items()):
        if day >= before or len(files) < 2:
            continue
        found = {label.label_id: label for uri in files for label in read_label_file(uri)}
        data = parquet_bytes(to_table([found[name] for name in sorted(found)]))
        target = _merged_uri(layout, day, data)
        if target not in files:
            put_bytes(target, data, scratch=layout.scratch(), file_mode=layout.file_mode)
        remove_all(uri for uri in files if uri != target)
        merged += len(files)
    return merged


def _merged_uri(layout: Layout, day: str, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()[:20]
    return join(_partition(layout, day), f"{MERGED}{digest}.parquet")


def _label_uri(layout: Layout, label: Label) -> str:
    return join(_partition(layout, label.answered_date), f"{label.label_id}.parquet")


def _partition(layout: Layout, answered_date: str) -> str:
    return join(layout.labels, f"{PARTITION}={answered_date}")
