"""Check the answers of reviewers: readable, complete, and about images that the lake has or had."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import duckdb
import pyarrow as pa

from transforms.lake.index_files import DamagedFile, is_damaged, open_index_file
from transforms.lake.label_sets import read_label_set
from transforms.lake.labels import (
    LABEL_SCHEMA,
    LATER_COLUMNS,
    UNDO,
    Label,
    answers_of,
    list_labels,
    read_label_file,
)
from transforms.lake.layout import Layout
from transforms.lake.verify_report import Violation

_UNKNOWN: Final = """
SELECT object_key FROM labels
ANTI JOIN (SELECT content_sha256 FROM rows UNION ALL SELECT content_sha256 FROM history)
USING (content_sha256)"""


@dataclass
class ReadLabels:
    """The labels of a lake, and what is wrong with their files.

    Attributes:
        labels: each label once.
        violations: of files, and of labels by themselves.
    """

    labels: dict[str, Label] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def check_label_files(layout: Layout, *, deep: bool) -> ReadLabels:
    """Read the labels of a lake, while they may be appended and merged.

    Args:
        layout: the lake.
        deep: whether to compare files with their checksums.
    """
    found = ReadLabels()
    read: set[str] = set()
    while unread := [uri for uri in list_labels(layout) if uri not in read]:
        for uri in unread:
            read.add(uri)
            _read_file(layout, uri, found, deep=deep)
    answers = answers_of(read_label_set(layout))
    for label in found.labels.values():
        found.violations += [
            Violation(kind, label.object_key, "")
            for kind in _of_label(label, found.labels, answers)
        ]
    return found


def unknown_images(db: duckdb.DuckDBPyConnection, labels: Iterable[Label]) -> Iterator[Violation]:
    """Yield the violations of labels about images without a row, current or superseded.

    Args:
        db: the database of `verify`, with all rows that were written before the labels.
        labels: the labels.
    """
    columns = [(label.object_key, label.content_sha256) for label in labels]
    table = {
        "object_key": pa.array([key for key, _ in columns], pa.string()),
        "content_sha256": pa.array([content for _, content in columns], pa.string()),
    }
    db.register("labels", pa.table(table))
    for (key,) in db.execute(_UNKNOWN).fetchall():
        yield Violation("answer about an image without a row", key, "")
    db.unregister("labels")


def _read_file(layout: Layout, uri: str, found: ReadLabels, *, deep: bool) -> None:
    where = layout.relative(uri)
    try:
        if deep and is_damaged(uri):
            found.violations.append(Violation("label file with other bytes", "", where))
            return
        with open_index_file(uri) as file:
            names = {*file.schema_arrow.names, *LATER_COLUMNS}
            missing = [name for name in LABEL_SCHEMA.names if name not in names]
        if missing:
            where = f"{where}: {', '.join(missing)}"
            found.violations.append(Violation("columns missing in a label file", "", where))
        for label in read_label_file(uri):
            if found.labels.setdefault(label.label_id, label) != label:
                found.violations.append(
                    Violation("two answers of one label_id", label.object_key, where)
                )
    except FileNotFoundError:  # merged since the listing, which is repeated
        return
    except DamagedFile:
        found.violations.append(Violation("unreadable label file", "", where))


def _of_label(label: Label, labels: dict[str, Label], answers: Collection[str]) -> Iterator[str]:
    if label.answer not in (*answers, UNDO):
        yield "unknown answer"
    retracted = labels.get(label.retracts or "")
    if (label.answer == UNDO) != (label.retracts is not None) or (
        label.answer == UNDO
        and (retracted is None or retracted.content_sha256 != label.content_sha256)
    ):
        yield "undo of an answer that does not exist"
