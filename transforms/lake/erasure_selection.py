"""Select the contents to erase: by patient key, study, object key, or age and destination."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.errors import UsageError
from transforms.core.reasons import Status
from transforms.imaging.uids import is_valid_uid
from transforms.lake.files import exists, read_bytes
from transforms.lake.index_files import list_history, list_index, read_index, read_matching
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout
from transforms.storage.schemes import join

LEGAL_HOLDS: Final = "legal_holds.txt"
"""File of a lake with what must not be erased, one entry a line, as in a list of `forget`."""
MAX_ENTRIES: Final = 1_000_000
_PATIENT_KEY: Final = re.compile(r"[0-9a-f]{64}")
_OBJECT_KEY: Final = re.compile(r"[0-9a-f]{12}")


class SelectionError(UsageError):
    """An entry of a selection is invalid; the message has its line, and not its value."""


@dataclass(frozen=True)
class Selection:
    """What is selected, by column of the index.

    Attributes:
        patient_key: keyed hashes of Patient IDs, hex.
        study_instance_uid: Study Instance UIDs.
        object_key: keys of objects.
        content_sha256: contents.
    """

    patient_key: frozenset[str] = frozenset()
    study_instance_uid: frozenset[str] = frozenset()
    object_key: frozenset[str] = frozenset()
    content_sha256: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(self.columns.values())

    def __or__(self, other: Selection) -> Selection:
        return Selection(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))

    @property
    def columns(self) -> dict[str, frozenset[str]]:
        """The selected values by column."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def wanted(self) -> dict[str, pa.Array]:
        """As `columns`, for `read_matching`; without columns of which nothing is selected."""
        return {
            name: pa.array(sorted(values), pa.string())
            for name, values in self.columns.items()
            if values
        }


def parse_selection(text: str, what: str) -> Selection:
    """Return the selection in a list, one entry a line; empty lines and what follows `#` are ignored.

    Args:
        text: of the list. An entry is a patient key (64 hex digits), an object key (12 hex digits) or a
            Study Instance UID.
        what: name of the list in messages.

    Raises:
        SelectionError: an entry is none of these.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if entry:
            entry = entry.lower()  # hex digits; a UID has no letters
            column = column_of(entry)
            if column is None:
                raise SelectionError(
                    f"{what}, line {number}: neither a patient key (64 hex digits), an object key "
                    "(12 hex digits) nor a Study Instance UID"
                )
            found[column].add(entry)
        if number > MAX_ENTRIES:
            raise SelectionError(f"{what} has more than {MAX_ENTRIES} lines")
    return Selection(**{name: frozenset(values) for name, values in found.items()})


def column_of(entry: str) -> str | None:
    """Return the column that a patient key, an object key or a UID selects by; None if it is none."""
    if _PATIENT_KEY.fullmatch(entry):
        return "patient_key"
    if _OBJECT_KEY.fullmatch(entry):
        return "object_key"
    return "study_instance_uid" if "." in entry and is_valid_uid(entry) else None


def read_legal_holds(layout: Layout) -> Selection:
    """Return what the lake's own list of legal holds names.

    Raises:
        SelectionError: an entry is invalid.
        OSError: the file cannot be read.
    """
    uri = join(layout.root, LEGAL_HOLDS)
    if not exists(uri):
        return Selection()
    try:
        return parse_selection(read_bytes(uri).decode("utf-8-sig"), LEGAL_HOLDS)
    except UnicodeDecodeError:
        raise SelectionError(f"{LEGAL_HOLDS} is not UTF-8") from None


@dataclass(frozen=True)
class Selected:
    """The contents that a selection has.

    Attributes:
        contents: sha256, hex.
        matched: selected values that a row has, by column.
    """

    contents: frozenset[str]
    matched: Mapping[str, frozenset[str]]


def select_contents(layout: Layout, selection: Selection) -> Selected:
    """Return the contents of all rows that a selection names: current, superseded and journaled.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """
    wanted = selection.wanted
    columns = [*Selection().columns]

    def select(files: list[str]) -> Selected:
        contents: set[str] = set()
        matched: dict[str, set[str]] = defaultdict(set)
        for table in matching_rows(layout, files, columns, wanted):
            contents.update(filter(None, table["content_sha256"].to_pylist()))
            for name, values in wanted.items():
                present = table[name].filter(pc.is_in(table[name], value_set=values))
                matched[name].update(present.to_pylist())
        return Selected(frozenset(contents), {k: frozenset(v) for k, v in matched.items()})

    return read_index(layout, select)


def matching_rows(
    layout: Layout, index: Iterable[str], columns: list[str], wanted: Mapping[str, pa.Array]
) -> Iterator[pa.Table]:
    """Yield the current, superseded and journaled rows that have a wanted value.

    Args:
        layout: the lake.
        index: URIs of its index files.
        columns: to read.
        wanted: values by column; one of them must be in a row.

    Raises:
        FileNotFoundError: an index file is gone.
        DamagedFile: a file of the lake cannot be read.
    """
    if not any(map(len, wanted.values())):
        return
    for uri in index:
        yield from read_matching(uri, columns, wanted)
    for uri in (*list_history(layout), *list_journal(layout)):
        with contextlib.suppress(FileNotFoundError):  # replaced since the listing
            yield from read_matching(uri, columns, wanted)


def longer_sources(layout: Layout, names: Iterable[str]) -> frozenset[str]:
    """Return the sources in the lake that begin with a name and are longer, as IM10 is than IM1.

    The caller holds the lake's locks.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """
    by_length: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_length[len(name)].append(name)
    found: set[str] = set()
    for uri in (*list_index(layout), *list_history(layout), *list_journal(layout)):
        for table in read_matching(uri, ["source_uri"], {}):
            sources = table["source_uri"]
            for length, of_length in by_length.items():
                longer = sources.filter(pc.greater(pc.utf8_length(sources), length))
                begins = pc.utf8_slice_codeunits(longer, 0, length)
                is_named = pc.is_in(begins, value_set=pa.array(of_length, pa.string()))
                found.update(longer.filter(is_named).to_pylist())
    return frozenset(found)


def count_without_patient(layout: Layout) -> int:
    """Return the number of current rows without a `patient_key`, besides those of quarantined objects.

    Raises:
        DamagedFile: an index file cannot be read.
    """

    def count(files: list[str]) -> int:
        number = 0
        for uri in files:
            for table in read_matching(uri, ["status", "patient_key"], {}):
                is_readable = pc.not_equal(table["status"], str(Status.QUARANTINED))
                found = pc.and_(pc.is_null(table["patient_key"]), is_readable)
                number += pc.sum(found).as_py() or 0
        return number

    return read_index(layout, count)


def select_by_age(
    layout: Layout, before_us: Mapping[str, int]
) -> tuple[frozenset[str], Counter[str]]:
    """Return the contents in some sinks that were ingested before a time, and their number by sink.

    A content that several sources have is as old as the row that was ingested last.

    Args:
        layout: the lake.
        before_us: time by sink, microseconds since 1970.

    Raises:
        DamagedFile: an index file cannot be read.
    """

    def select(files: list[str]) -> tuple[frozenset[str], Counter[str]]:
        old: dict[str, str] = {}
        for table in _by_age(files, before_us, is_old=True):
            columns = (table["content_sha256"].to_pylist(), table["destination"].to_pylist())
            old.update((content, sink) for content, sink in zip(*columns, strict=True) if content)
        if old:  # what is younger may be the whole lake, and is not kept
            for table in _by_age(files, before_us, is_old=False):
                for content in table["content_sha256"].to_pylist():
                    old.pop(content, None)
        return frozenset(old), Counter(old.values())

    return read_index(layout, select)


def _by_age(
    files: Iterable[str], before_us: Mapping[str, int], *, is_old: bool
) -> Iterator[pa.Table]:
    """Yield the rows that were ingested before the time of their sink, or those that were not."""
    for uri in files:
        for table in read_matching(uri, ["content_sha256", "destination", "ingested_at"], {}):
            times = table["ingested_at"].cast(pa.int64())
            mask = pa.chunked_array([pa.repeat(pa.scalar(False), len(table))])
            for sink, before in before_us.items():
                in_sink = pc.fill_null(pc.equal(table["destination"], sink), False)
                mask = pc.or_(mask, pc.and_(in_sink, pc.less(times, before)))
            yield table.filter(mask if is_old else pc.invert(mask))
