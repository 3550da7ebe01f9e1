"""Answers without a browser: export what waits to a CSV file, import its answers.

The file has nothing that identifies a patient; the name of a stored object has its UIDs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.csv_cells import escape_formula
from pipeline.review.queues import Queue, load_waiting, rows_of
from pipeline.summaries import utc_text
from transforms.core.errors import UsageError, did_you_mean
from transforms.core.labels import LabelSet
from transforms.lake.files import remove_all
from transforms.lake.index_files import read_index
from transforms.lake.label_sets import read_label_set
from transforms.lake.labels import (
    REVIEWER_PATTERN,
    Label,
    answers_of,
    append_labels,
    effective_labels,
    new_label,
    read_labels,
)
from transforms.lake.layout import Layout
from transforms.lake.probabilities import stored_probabilities
from transforms.lake.resolve_duplicates import is_stored
from transforms.lake.schema import IndexRow
from transforms.lake.tombstones import read_tombstones

HEADER_COLUMNS: Final = (
    "header_label header_agrees modality body_part_examined view_position laterality patient_age_years "
    "patient_sex manufacturer manufacturer_model_name rows columns"
).split()
PREDICTION_COLUMNS: Final = (
    "status reason destination predicted_label confidence predicted_region region_confidence"
).split()
IDENTITY, EXPORTED = "content_sha256", "exported_at"
_PROBABILITY: Final = "prob_"
REQUIRED: Final = ("answer", IDENTITY)
DELIMITERS: Final = (",", ";", "\t")
"""Spreadsheets write the one of their language."""
MAX_BYTES: Final = 256 << 20
MAX_SHOWN: Final = 50
ALL: Final = 1 << 31


class InvalidAnswers(UsageError):
    """A file of answers cannot be imported; the message has every problem, by line."""


@dataclass(frozen=True)
class Imported:
    """Result of `import_answers`.

    Attributes:
        stored: number of new answers.
        known: number of answers that an earlier import of the same file has stored.
        empty: number of lines without an answer.
    """

    stored: int
    known: int
    empty: int


def export_columns(labels: Sequence[str]) -> list[str]:
    """Return the columns of an exported file.

    Args:
        labels: names of the labels of the lake.
    """
    return [
        *("answer", "reviewer", "queue", "object_key", "object_uri"),
        *PREDICTION_COLUMNS,
        *(f"{_PROBABILITY}{label}" for label in labels),
        "ood_score",
        *HEADER_COLUMNS,
        *(IDENTITY, EXPORTED),
    ]


def export_waiting(layout: Layout, path: Path, below: float, sample: int = 0) -> int:
    """Write what waits in a lake to a CSV file; return the number of images.

    Args:
        layout: the lake.
        path: the file; an existing one is not replaced, because it may have answers.
        below: as for `load_waiting`.
        sample: as for `load_waiting`.

    Raises:
        UsageError: the file exists.
        OSError: it cannot be written.
        DamagedFile: a file of the lake cannot be read.
    """
    known = effective_labels(read_labels(layout))
    answered = {content for content, one in known.items() if one.label is not None}
    waiting = load_waiting(layout, answered, below, ALL, sample=sample)
    now = utc_text(time.time())
    labels = read_label_set(layout).names
    seen: set[str] = set()
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(export_columns(labels))
    for queue in Queue:
        for content in waiting.order[queue]:
            if content not in seen:
                seen.add(content)
                writer.writerow(_line(waiting.rows[content], queue, now, labels))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            f"--export {path} exists, and may have answers; give another name"
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8-sig", newline="") as file:
        file.write(text.getvalue())
    return len(seen)


def import_answers(layout: Layout, path: Path, reviewer: str) -> Imported:
    """Store the answers in a CSV file; idempotent. Nothing is stored if a line is invalid.

    Args:
        layout: the lake.
        path: the file, with at least the columns of `REQUIRED`.
        reviewer: nickname for lines without one, or "".

    Raises:
        InvalidAnswers: with every problem, by line.
        OSError: the file cannot be read.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    label_set = read_label_set(layout)
    answers, problems, empty = _read(path, reviewer, answers_of(label_set))
    contents = {one.content for one in answers}
    rows = read_index(layout, lambda files: rows_of(files, contents))
    problems += [
        (one.line, f"{IDENTITY}: the lake has no such image")
        for one in answers
        if one.content not in rows
    ]
    given = Counter((one.reviewer, one.content) for one in set(answers))
    lines = {(one.reviewer, one.content): one.line for one in answers}
    problems += [
        (lines[pair], "another line has another answer of the same reviewer about this image")
        for pair, number in given.items()
        if number > 1
    ]
    if problems:
        raise InvalidAnswers(_format(path, problems))
    labels = read_labels(layout)
    known = {label.label_id for label in labels}
    new = {one.label_id: one for one in answers if one.label_id not in known}
    stored = _store(layout, list(_labels(new.values(), rows, labels, label_set)))
    return Imported(stored, len({one.label_id for one in answers}) - len(new), empty)


def _store(layout: Layout, labels: Sequence[Label]) -> int:
    """Store labels, except those of images that were erased since their rows were read; count them."""
    files = append_labels(layout, labels)
    tombstones = read_tombstones(layout)  # after writing, as in `ReviewDesk`
    kept = [label for label in labels if not tombstones.match(label)]
    if len(kept) < len(labels):
        remove_all(set(files).difference(append_labels(layout, kept)))
    return len(kept)


@dataclass(frozen=True)
class _Answer:
    """An answer in a line of a file."""

    line: int = field(compare=False)
    content: str
    answer: str
    reviewer: str
    exported: str

    @property
    def label_id(self) -> str:
        """The same for the same line of the same export."""
        text = "\0".join(("import", self.content, self.answer, self.reviewer, self.exported))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _labels(
    answers: Iterable[_Answer],
    rows: Mapping[str, IndexRow],
    labels: Sequence[Label],
    label_set: LabelSet,
) -> Iterator[Label]:
    """Yield answers as labels, of which each is later than all others."""
    last = max((label.answered_at for label in labels), default=0)
    for one in answers:
        row = rows[one.content]
        last = max(time.time_ns() // 1000, last + 1, (row.decided_at or 0) + 1)
        yield new_label(
            row, one.answer, one.reviewer, last, label_id=one.label_id, labels=label_set
        )


def _read(
    path: Path, reviewer: str, known: Sequence[str]
) -> tuple[list[_Answer], list[tuple[int, str]], int]:
    """Return the answers in a file, the problems of its lines, and the number of empty answers."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InvalidAnswers(f"--import {path}: the file is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidAnswers(
            f"--import {path}: the file is not UTF-8; save it as 'CSV UTF-8'"
        ) from None
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    answers, problems, empty = [], list[tuple[int, str]](), 0
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in REQUIRED if name not in names]:
            raise InvalidAnswers(
                f"--import {path}: column missing: {', '.join(missing)}; begin with a file of --export"
            )
        for values in reader:
            line = dict(zip(names, map(str.strip, values), strict=False))
            if not line.get("answer"):
                empty += 1
                continue
            found = _Answer(
                reader.line_num,
                line.get(IDENTITY, "").lower(),
                line["answer"].lower().replace(" ", "_"),
                line.get("reviewer") or reviewer,
                line.get(EXPORTED, ""),
            )
            if of_line := [(found.line, problem) for problem in _problems(found, known)]:
                problems += of_line
            else:
                answers.append(found)
    except csv.Error:
        problems.append((reader.line_num, "a quotation mark is missing, or the line is too long"))
    return answers, problems, empty


def _problems(one: _Answer, known: Sequence[str]) -> Iterator[str]:
    if one.answer not in known:
        near = did_you_mean(one.answer, known)
        hint = f"; did you mean {near}?" if near else ""
        yield f"answer: write one of {', '.join(known)}{hint}"
    if not one.reviewer:
        yield "reviewer: write a nickname, or give --reviewer NAME for all lines without one"
    elif not REVIEWER_PATTERN.fullmatch(one.reviewer):
        yield "reviewer: use 1 to 40 letters, digits, spaces, or _ . @ -"


def _format(path: Path, problems: list[tuple[int, str]]) -> str:
    lines = [f"line {line}: {problem}" for line, problem in sorted(problems)]
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"… and {len(lines) - MAX_SHOWN} more"]
    return f"--import {path}: nothing was stored; correct these lines\n  " + "\n  ".join(lines)


def _line(row: IndexRow, queue: Queue, now: str, labels: Sequence[str]) -> list[str]:
    probabilities = stored_probabilities(row)
    special: dict[str, object] = {
        "answer": "",
        "reviewer": "",
        "queue": str(queue),
        "object_uri": str(row.object_uri) if is_stored(row) else "",  # sources have their own names
        EXPORTED: now,
        **{f"{_PROBABILITY}{label}": probabilities.get(label) for label in labels},
    }
    names = export_columns(labels)
    return [_cell(special.get(name, getattr(row, name, None))) for name in names]


def _cell(value: object) -> str:
    """Return a value as text that a spreadsheet does not run."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape_formula(str(value))
