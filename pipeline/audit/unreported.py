"""Find the rows and answers that were not reported, without reading what was.

Rows are appended in segments, whose numbers in a log are consecutive: those after the last reported one
are new. A segment that is missing was rewritten before it was reported; its rows, which hash to its
shard, are in other files. Decisions that are changed have their old rows in new history files. Derived
objects have the run and the time in their rows.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.notes import (
    NOTHING,
    Reported,
    change_unit,
    derived_unit,
    log_name,
    not_read,
    segment_unit,
    stream_unit,
)
from transforms.core.reasons import Status
from transforms.lake import derived
from transforms.lake.append_log import LogShard, parse_segment
from transforms.lake.index_files import (
    RUN_ID_KEY,
    DamagedFile,
    list_history,
    list_index,
    read_index,
    read_matching,
    read_metadata,
    shard_of,
)
from transforms.lake.labels import Label, list_labels, read_label_file
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import RUN_ID_SEPARATOR, SCHEMA, identity_of
from transforms.lake.supersede import unfinished_history
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import is_below

COLUMNS: Final = (
    "run_id study_instance_uid sop_class_uid patient_key status destination decided_at ingested_at"
).split()
"""Columns of the rows that are found."""
_KEY: Final = ["source_uri", "source_version", "run_id"]
_DERIVED: Final = ["content_sha256", "destination", "status", "run_id", "derived_at"]
_SOURCE_KEY: Final = ["content_sha256", "destination"]
_OF_SOURCE: Final = ["study_instance_uid", "sop_class_uid", "patient_key"]
_ALL: Final = [*COLUMNS, "source_uri", "source_version", "sop_instance_uid", "content_sha256"]

Key: TypeAlias = tuple[str, str, str]
"""Identifies a row: source URI, source version and run id."""


@dataclass(frozen=True)
class _Missing:
    """Segments that were rewritten before they were reported."""

    log: LogShard
    numbers: frozenset[int]


def appended_rows(
    layout: Layout, since: str, reported: Reported, new: Reported, *, compare: bool = True
) -> list[pa.Table]:
    """Return the rows that runs have appended.

    Args:
        layout: the lake.
        since: id after which those of reported runs sort.
        reported: what was reported.
        new: to which the found rows are added.
        compare: whether to compare the last segments that were reported: one that was damaged and moved
            out of the lake is followed by another of its number.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        OSError: the lake cannot be listed.
    """

    def read(files: list[str]) -> tuple[list[pa.Table], Reported]:
        found = Reported()
        rows = _appended(layout, files, since, reported, found, compare=compare)
        return list(rows), found

    tables, found = read_index(layout, read, _stable_files)
    new.add(found)
    return tables


def _stable_files(layout: Layout) -> list[str]:
    """Return the files of the index, then of the history, at one moment.

    A listing in parts can miss what a later part follows; an erasure replaces files of both.
    """
    files = [*list_index(layout), *list_history(layout)]
    while files != (listed := [*list_index(layout), *list_history(layout)]):
        files = listed
    return files


def _split(layout: Layout, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files of the index, and of the history, which follow them."""
    history = [uri for uri in files if is_below(uri, layout.history)]
    return list(files[: len(files) - len(history)]), history


def _appended(
    layout: Layout,
    files: Sequence[str],
    since: str,
    reported: Reported,
    new: Reported,
    *,
    compare: bool,
) -> Iterator[pa.Table]:
    index, history = _split(layout, files)
    segments: dict[LogShard, dict[int, str]] = defaultdict(dict)
    for uri in index:
        if (parsed := parse_segment(uri)) is not None:
            log, segment = parsed
            segments[log][segment.number] = uri
    missing = []
    for log, uris in sorted(segments.items()):
        (last, runs), end = reported.logs.get(log_name(log), NOTHING), max(uris)
        if compare and last in uris and _run_ids(uris[last]) not in (None, runs):
            last -= 1
        if end <= last:
            continue
        numbers = range(last + 1, end + 1)
        for number in numbers:
            if number in uris:
                for table in _rows_since(uris[number], COLUMNS, since):
                    for run_id in pc.unique(table["run_id"]).to_pylist():
                        new.units.add(_unit(run_id, log, {number}))
                    yield table
        if rewritten := frozenset(numbers) - uris.keys():
            missing.append(_Missing(log, rewritten))
        new.logs[log_name(log)] = end, _run_ids(uris[end]) or ""
    if missing:
        yield from _rewritten(index, history, since, missing, reported, new)


def _run_ids(uri: str) -> str | None:
    """Return the ids of the runs in a segment; None if it cannot be read, which `verify` reports."""
    try:
        return read_metadata(uri).get(RUN_ID_KEY, b"").decode()
    except DamagedFile:
        return None


def _unit(run_id: str, log: LogShard, numbers: Container[int]) -> str:
    """Return the unit of rows in a segment with one of some numbers."""
    run, _, number = run_id.partition(RUN_ID_SEPARATOR)
    is_stream = bool(number) and int(number) in numbers
    return stream_unit(run) if is_stream else segment_unit(run_id, log)


def _rewritten(
    index: Sequence[str],
    history: Sequence[str],
    since: str,
    missing: Sequence[_Missing],
    reported: Reported,
    new: Reported,
) -> Iterator[pa.Table]:
    """Yield the rows of missing segments, current and superseded ones."""
    others = [uri for uri in index if parse_segment(uri) is None]
    changed = _changed_keys(history, since)
    shard_counts = reported.shard_counts()
    seen: set[Key] = set()
    for uri in (*others, *history):
        for table in _rows_since(uri, _ALL, since):
            wanted = []
            for row in table.to_pylist():
                key = _key(row)
                one = None
                if key not in seen and key not in changed:
                    one = _segment_of(row, missing, reported, shard_counts)
                wanted.append(one is not None)
                if one is not None:
                    seen.add(key)
                    new.units.add(_unit(row["run_id"], one.log, one.numbers))
            yield from filter(len, [table.filter(pa.array(wanted, pa.bool_())).select(COLUMNS)])


def _changed_keys(history: Sequence[str], since: str) -> set[Key]:
    """Return the keys of rows that decided others again, and were never appended."""
    columns = ["source_uri", "source_version", "superseded_by"]
    return {
        tuple(row.values())
        for uri in history
        for table in read_matching(uri, columns, {})
        for row in table.filter(pc.greater(table["superseded_by"], since)).to_pylist()
    }


def _segment_of(
    row: Mapping[str, Any],
    missing: Sequence[_Missing],
    reported: Reported,
    shard_counts: Sequence[int],
) -> _Missing | None:
    """Return which missing segments had a row; None if it was reported, or is of another log.

    A number in `run_id` is that of the segment (of a stream), or of a slice of a batch run. A slice can
    have the number of its segment, and its run is then noted as a stream: of a stream, a row with a
    number after the last reported segment is new.
    """
    run, _, number = row["run_id"].partition(RUN_ID_SEPARATOR)
    identity = identity_of(row["status"], row["sop_instance_uid"], row["content_sha256"])
    logs = [LogShard(shards, shard_of(identity, shards)) for shards in shard_counts]
    if any(segment_unit(row["run_id"], log) in reported.units for log in logs):
        return None
    for one in missing:
        if shard_of(identity, one.log.shards) != one.log.shard:
            continue
        if number and int(number) in one.numbers:
            return one
        if stream_unit(run) not in reported.units:
            return one
        last = (reported.logs.get(log_name(log), NOTHING)[0] for log in logs)
        if all(int(number or 0) > segment for segment in last):
            return one
    return None


def changed_rows(layout: Layout, since: str, reported: Reported, new: Reported) -> list[pa.Table]:
    """Return the rows that have replaced others; see `appended_rows`.

    Decisions whose change is not finished are left for the next report.
    """
    history = list_history(layout)
    unfinished = unfinished_history(layout)  # after listing: an intent outlives its changes
    keys: dict[str, set[Key]] = defaultdict(set)
    for uri in not_read(layout, history, reported):
        if uri in unfinished:
            continue
        try:
            changes = list(read_matching(uri, [*_KEY[:2], "superseded_by", "superseded_at"], {}))
        except FileNotFoundError:  # its change was undone, or it was rewritten, since the listing
            continue
        new.files.add(layout.relative(uri))
        for table in changes:
            times = table["superseded_at"].cast(pa.int64()).to_pylist()
            for row, at in zip(table.to_pylist(), times, strict=True):
                unit = change_unit(row["superseded_by"], at)
                if row["superseded_by"] > since and unit not in reported.units:
                    new.units.add(unit)
                    key = row["source_uri"], row["source_version"], row["superseded_by"]
                    keys[partition_of(uri)].add(key)
    return [
        table for day, of_day in sorted(keys.items()) for table in _rows_of(layout, day, of_day)
    ]


def _rows_of(layout: Layout, day: str, keys: set[Key]) -> list[pa.Table]:
    """Return the rows of a day with some keys; they may be superseded again."""
    runs = {"run_id": pa.array(sorted({run_id for _, _, run_id in keys}), pa.string())}

    def read(files: list[str]) -> list[pa.Table]:
        found: list[pa.Table] = []
        seen: set[Key] = set()
        for uri in files:
            for table in read_matching(uri, _ALL, runs):
                rows = [_key(row) for row in table.select(_KEY).to_pylist()]
                wanted = [key in keys and key not in seen for key in rows]
                seen.update(rows)
                found.append(table.filter(pa.array(wanted, pa.bool_())).select(COLUMNS))
        return [table for table in found if len(table)]

    return read_index(layout, read, functools.partial(_files_of_day, day=day))


def _files_of_day(layout: Layout, day: str) -> list[str]:
    return [uri for uri in _stable_files(layout) if partition_of(uri) == day]


def derived_rows(
    layout: Layout,
    since: str,
    reported: Reported,
    new: Reported,
    unchanged: Collection[ObjectInfo] = (),
) -> tuple[list[pa.Table], set[ObjectInfo]]:
    """Return the rows of objects from which others were derived; see `appended_rows`.

    Args:
        layout: the lake.
        since: as for `appended_rows`.
        reported: as for `appended_rows`.
        new: as for `appended_rows`.
        unchanged: files of the table of derived objects of which all rows are reported.

    Returns:
        Rows with the run and time of the derivation, and the files that were read or unchanged.
    """
    files = set(derived.list_derived(layout))
    found = []
    for file in sorted(files.difference(unchanged), key=lambda file: file.uri):
        day = partition_of(file.uri)
        rows = _newly_derived(layout, day, since, reported, new)
        if len(rows):
            found.append(_with_sources(layout, day, rows))
    return found, files


def _newly_derived(
    layout: Layout, day: str, since: str, reported: Reported, new: Reported
) -> pa.Table:
    """Return run, time and source of the derived objects of a day that were not reported."""
    rows = derived.read_derived(layout, day, _DERIVED)
    is_written = pc.equal(rows["status"], derived.WRITTEN)
    rows = rows.filter(pc.and_(is_written, pc.greater(rows["run_id"], since)))
    rows = rows.append_column("at_us", rows["derived_at"].cast(pa.int64()))
    batches = rows.group_by(["run_id", "at_us"]).aggregate([])
    units = [derived_unit(one["run_id"], one["at_us"]) for one in batches.to_pylist()]
    is_new = [unit not in reported.units for unit in units]
    new.units.update(itertools.compress(units, is_new))
    batches = batches.filter(pa.array(is_new, pa.bool_()))
    return rows.join(batches, ["run_id", "at_us"], join_type="inner")


def _with_sources(layout: Layout, day: str, rows: pa.Table) -> pa.Table:
    """Return rows of a day about derived objects with study, patient and class of their sources.

    The decision about a source may have changed, while its derived object is not removed yet: its row is
    in the history then. Rows without a source, which is being erased or was lost, are left out.
    """
    contents = rows["content_sha256"].combine_chunks()

    def read(files: list[str]) -> pa.Table:
        found = []
        waiting = rows
        for part in _split(layout, files):
            if len(waiting):
                sources = _routed(part, contents)
                found.append(waiting.join(sources, _SOURCE_KEY, join_type="inner"))
                waiting = waiting.join(sources, _SOURCE_KEY, join_type="left anti")
        return pa.concat_tables(found)

    joined = read_index(layout, read, functools.partial(_files_of_day, day=day))
    at = joined["derived_at"]
    return joined.append_column("decided_at", at).append_column("ingested_at", at).select(COLUMNS)


def _routed(files: Iterable[str], contents: pa.StringArray) -> pa.Table:
    """Return study, patient and class of some contents in sinks, once for each sink."""
    columns = [*_SOURCE_KEY, *_OF_SOURCE, "status"]
    found = [SCHEMA.empty_table().select(columns)]
    for uri in files:
        found += read_matching(uri, columns, {"content_sha256": contents})
    rows = pa.concat_tables(found)
    rows = rows.filter(pc.equal(rows["status"], Status.ROUTED.value))
    firsts = rows.group_by(_SOURCE_KEY, use_threads=False).aggregate(
        [(name, "first") for name in _OF_SOURCE]
    )
    return firsts.rename_columns([*_SOURCE_KEY, *_OF_SOURCE])


def new_answers(layout: Layout, since_us: int, reported: Reported, new: Reported) -> list[Label]:
    """Return the answers of reviewers from a time on, in order; see `appended_rows`."""
    found: dict[str, Label] = {}
    for uri in not_read(layout, list_labels(layout), reported):
        try:
            labels = read_label_file(uri)
        except FileNotFoundError:  # merged since the listing; the merged file is read next time
            continue
        new.files.add(layout.relative(uri))
        for label in labels:
            if label.answered_at >= since_us and label.label_id not in reported.answers:
                found[label.label_id] = label
    new.answers.update(found)
    return sorted(found.values(), key=lambda label: (label.answered_at, label.label_id))


def _rows_since(uri: str, columns: Sequence[str], since: str) -> Iterator[pa.Table]:
    """Yield the rows of a file that reported runs have written."""
    if any(_is_since(table, since).true_count for table in read_matching(uri, ["run_id"], {})):
        for table in read_matching(uri, columns, {}):
            yield from filter(len, [table.filter(_is_since(table, since))])


def _is_since(table: pa.Table, since: str) -> pa.BooleanArray:
    return pc.greater(table["run_id"], since).combine_chunks()


def _key(row: Mapping[str, Any]) -> Key:
    return row["source_uri"], row["source_version"], row["run_id"]
