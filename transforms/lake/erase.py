"""Erase contents from a lake: plan, apply, and complete what was interrupted.

A write-ahead intent in the journal has what is erased, until it is. Then come tombstones, rows, files, a
search of the lake for traces, and a signed report. Each step is repeated if it was killed: by the same
command, or by the next writer that opens the lake.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa

from transforms.core.errors import UsageError
from transforms.core.reasons import Status
from transforms.core.run_id import new_run_id
from transforms.lake import drain, run_state
from transforms.lake.erasure_places import PLACES, Erasure, is_object_of
from transforms.lake.erasure_report import Order, write_report
from transforms.lake.erasure_selection import Selection, longer_sources, matching_rows
from transforms.lake.files import exists, list_files, put_bytes, read_bytes
from transforms.lake.index_files import read_index
from transforms.lake.layout import HASH_IN_NAME, Layout
from transforms.lake.patient_ids import OfPatient, of_nobody, of_patients
from transforms.lake.schema import run_of
from transforms.lake.source_names import SourceNames
from transforms.lake.tombstones import (
    Kind,
    keyed_hash,
    source_value,
    tombstone_key,
    write_tombstones,
)
from transforms.lake.traces import Searched, is_in, object_has_trace, search_lake
from transforms.storage.schemes import join, storage_of

INTENT_PREFIX: Final = "forget-"
"""Prefix of the names of intents in the journal."""
MAX_CONTENTS: Final = 20_000
"""Maximum number of contents that are erased together."""
_SHARED: Final = (
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "patient_key",
    "source_uri",
)
"""Columns with values that rows which remain may have too."""
_COLUMNS: Final = [
    "run_id", "object_key", "source_uri", "source_version", "source_state", "content_sha256", "status",
    "destination", "object_uri", "sop_instance_uid", "series_instance_uid", "study_instance_uid",
    "patient_key", "superseded_at",
]  # fmt: skip


class ErasureError(UsageError):
    """Something cannot be erased; the message has the reason and the remedy."""


@dataclass(frozen=True)
class Plan:
    """What an erasure removes.

    Attributes:
        erasure: contents, objects and sources.
        selection: what was asked for.
        found: number of rows or files by place.
        rows_of_runs: number of rows by run and by their first status.
        identifiers: that must not be anywhere in the lake afterwards.
        names: of sources that must not be anywhere in the lake afterwards.
        tombstones: values by kind, which keep the contents out.
    """

    erasure: Erasure
    selection: Selection
    found: Mapping[str, int]
    rows_of_runs: Mapping[str, Mapping[str, int]]
    identifiers: frozenset[str]
    names: frozenset[str]
    tombstones: frozenset[tuple[str, str]]


def plan_erasures(layout: Layout, selection: Selection, contents: Iterable[str]) -> Iterator[Plan]:
    """Yield the erasures of some contents, in parts of at most `MAX_CONTENTS`; at least one.

    Args:
        layout: the lake and all of its sinks.
        selection: what was asked for.
        contents: what it selects.

    Raises:
        ErasureError: an object is in a sink that `layout` lacks.
        DamagedFile: a file of the lake cannot be read.
    """
    ordered = sorted(contents)
    for start in range(0, max(1, len(ordered)), MAX_CONTENTS):
        part = frozenset(ordered[start : start + MAX_CONTENTS])
        yield read_index(layout, partial(_plan, layout, selection, part))


def _plan(layout: Layout, selection: Selection, contents: frozenset[str], files: list[str]) -> Plan:
    rows = _rows_of(layout, files, contents)
    own = _own_values(layout, files, contents, rows)
    own_sources = own["source_uri"]
    erasure = Erasure(
        contents,
        tuple(sorted(_objects(layout, rows))),
        frozenset((row["source_uri"], row["source_version"]) for row in rows),
        frozenset(row["object_key"] for row in rows if row["source_uri"] in own_sources),
    )
    names = {content[:HASH_IN_NAME] for content in contents}
    identities = frozenset[str]()
    if selection:  # what is only too old may have UIDs and a patient in common with what is kept
        identities = _uids(own, selection) | own["patient_key"] | selection.patient_key
    return Plan(
        erasure,
        selection,
        {place.name: place.erase(layout, erasure, False) for place in PLACES},
        _rows_of_runs(rows),
        frozenset((*contents, *names, *identities, *erasure.object_keys)),
        frozenset(own_sources),
        frozenset(_tombstones(selection, contents, rows, own)),
    )


def _rows_of(layout: Layout, files: list[str], contents: frozenset[str]) -> list[dict[str, Any]]:
    wanted = {"content_sha256": pa.array(sorted(contents), pa.string())}
    tables = matching_rows(layout, files, _COLUMNS, wanted)
    return [row for table in tables for row in table.to_pylist()]


def _uids(own: Mapping[str, set[str]], selection: Selection) -> frozenset[str]:
    names = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
    return selection.study_instance_uid.union(*(own[name] for name in names))


def quarantined_with(
    layout: Layout,
    selection: Selection,
    contents: frozenset[str],
    patient_key: bytes | None = None,
) -> frozenset[str]:
    """Return quarantined contents, besides those given, whose bytes show that they are selected.

    They have UIDs of what is forgotten, or the Patient ID of a selected patient. A truncated object has
    no header in its row. All quarantined objects are read.

    Args:
        layout: the lake and all of its sinks.
        selection: what is selected.
        contents: what the rows show to be selected.
        patient_key: key of the hashes of Patient IDs, without which no Patient ID is recognized.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """
    of_patient: OfPatient = of_nobody
    if patient_key is not None and selection.patient_key:
        of_patient = of_patients(selection.patient_key.__contains__, patient_key)

    def find(files: list[str]) -> frozenset[str]:
        own = _own_values(layout, files, contents, _rows_of(layout, files, contents))
        is_trace = is_in(_uids(own, selection))
        found = set[str]()
        for row in _quarantined(layout, files, ["content_sha256", "object_uri"]):
            if row["content_sha256"] not in contents | found:
                with contextlib.suppress(OSError):  # `verify` reports it
                    if object_has_trace(layout.absolute(row["object_uri"]), is_trace, of_patient):
                        found.add(row["content_sha256"])
        return frozenset(found)

    return read_index(layout, find)


def quarantined_without_patient(layout: Layout) -> frozenset[str]:
    """Return the quarantined contents whose rows have no `patient_key`.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """

    def find(files: list[str]) -> frozenset[str]:
        rows = _quarantined(layout, files, ["content_sha256", "patient_key"])
        return frozenset(row["content_sha256"] for row in rows if row["patient_key"] is None)

    return read_index(layout, find)


def _quarantined(layout: Layout, files: list[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    wanted = {"status": pa.array([str(Status.QUARANTINED)])}
    for table in matching_rows(layout, files, columns, wanted):
        yield from table.to_pylist()


def _own_values(
    layout: Layout,
    files: list[str],
    contents: frozenset[str],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, set[str]]:
    """Return the values of rows, by column, that no row of another content has."""
    values = {name: {row[name] for row in rows if row[name]} for name in _SHARED}
    own = {name: set(of_column) for name, of_column in values.items()}
    wanted = {name: pa.array(sorted(v), pa.string()) for name, v in values.items() if v}
    for table in matching_rows(layout, files, ["content_sha256", *_SHARED], wanted):
        for row in table.to_pylist():
            if row["content_sha256"] not in contents:
                for name in _SHARED:
                    own[name].discard(row[name])
    return own


def _objects(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the stored objects of rows; sources that are only indexed are none.

    Raises:
        ErasureError: an object is in a sink that the layout lacks.
    """
    sources = {row["source_uri"] for row in rows}
    objects = set()
    for row in rows:
        if not row["object_uri"] or row["object_uri"] in sources:
            continue
        uri = layout.absolute(row["object_uri"])
        if is_object_of(layout, uri):
            objects.add(uri)
        elif exists(uri):
            raise ErasureError(
                f"the object of {row['object_key']} is in a sink outside the lake; give --policy with "
                "the sinks of its run"
            )
    return objects


def _tombstones(
    selection: Selection,
    contents: Iterable[str],
    rows: Sequence[Mapping[str, Any]],
    own: Mapping[str, set[str]],
) -> Iterator[tuple[str, str]]:
    """Yield the values, with their kinds, by which a re-sent object is recognized.

    A study is kept out if it, or its patient, was asked for, and a patient only if they were.
    """
    for content in contents:
        yield Kind.CONTENT, content
        yield Kind.NAME, content[:HASH_IN_NAME]
    for row in rows:
        source = source_value(row["source_uri"], row["source_version"], row["source_state"])
        yield Kind.SOURCE, source
        if row["patient_key"] in selection.patient_key:
            study = row["study_instance_uid"]
            if study in own["study_instance_uid"]:
                yield Kind.STUDY, study
    for uid in own["sop_instance_uid"] if selection else ():
        yield Kind.INSTANCE, uid
    for uid in selection.study_instance_uid:
        yield Kind.STUDY, uid
    for key in selection.patient_key:
        yield Kind.PATIENT, key


def _rows_of_runs(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the number of rows that each run has written, by their first status; as `verify` counts."""
    first: dict[tuple[str, str, str], tuple[bool, Any, str]] = {}
    for row in rows:
        key = run_of(row["run_id"]), row["source_uri"], row["source_version"]
        until = row["superseded_at"]
        state = (until is None, until or 0, row["status"])
        first[key] = min(first.get(key, state), state, key=lambda one: one[:2])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (run_id, _, _), (_, _, status) in first.items():
        counts[run_id][str(status)] += 1
    return {run_id: dict(of_run) for run_id, of_run in sorted(counts.items())}


@dataclass(frozen=True)
class Intent:
    """The write-ahead intent of an erasure, in plain identifiers; it is removed when nothing is left.

    Attributes:
        erasure_id: names the erasure.
        order: on whose order, and what was asked for.
        contents: as in `Erasure`.
        objects: as in `Erasure`.
        versions: as in `Erasure`.
        object_keys: as in `Erasure`.
        identifiers: as in `Plan`.
        names: as in `Plan`.
        tombstones: kinds and hashes.
        found: as in `Plan`.
        rows_of_runs: as in `Plan`.
        sinks: roots of the lake's sinks.
        deep: whether objects that remain are searched too.
    """

    erasure_id: str
    order: Order
    contents: list[str]
    objects: list[str]
    versions: list[list[str]]
    object_keys: list[str]
    identifiers: list[str]
    names: list[str]
    tombstones: list[list[str]]
    found: dict[str, int]
    rows_of_runs: dict[str, dict[str, int]]
    sinks: dict[str, str] = field(default_factory=dict)
    deep: bool = False

    @property
    def erasure(self) -> Erasure:
        """What is erased."""
        return Erasure(
            frozenset(self.contents),
            tuple(self.objects),
            frozenset((uri, version) for uri, version in self.versions),
            frozenset(self.object_keys),
        )


@dataclass(frozen=True)
class Erased:
    """Result of an erasure.

    Attributes:
        report: URI of its signed report.
        found: number of rows or files by place.
        searched: what the search for traces has read and found.
    """

    report: str
    found: Mapping[str, int]
    searched: Searched


def apply_erasure(layout: Layout, plan: Plan, order: Order, *, deep: bool = False) -> Erased:
    """Erase what a plan has. Safe to kill at every step.

    The caller holds the lake's locks, and has called `prepare_changes`.

    Args:
        layout: the lake and all of its sinks.
        plan: of this lake.
        order: on whose order, and what was asked for.
        deep: whether to search stored objects that remain, too.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
        OSError: a file cannot be removed.
    """
    key = tombstone_key(layout)
    erasure = plan.erasure
    hashes = sorted({(kind, keyed_hash(key, value).hex()) for kind, value in plan.tombstones})
    intent = Intent(
        new_run_id(),
        order,
        sorted(erasure.contents),
        list(erasure.objects),
        sorted(map(list, erasure.versions)),
        sorted(erasure.object_keys),
        sorted(plan.identifiers),
        sorted(plan.names),
        [list(one) for one in hashes],
        dict(plan.found),
        {run: dict(counts) for run, counts in plan.rows_of_runs.items()},
        layout.sinks,
        deep,
    )
    uri = join(layout.journal, f"{INTENT_PREFIX}{intent.erasure_id}.json")
    data = json.dumps(asdict(intent)).encode("utf-8", "surrogateescape")
    put_bytes(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return _complete(layout, uri, intent)


def finish_erasures(layout: Layout) -> None:
    """Complete interrupted erasures. The caller holds the lake's locks.

    Raises:
        DamagedFile, ProcessingFailure, OSError: as `apply_erasure`.
    """
    for uri in list_erasure_intents(layout):
        intent = _read_intent(uri)
        _complete(replace(layout, sinks={**intent.sinks, **layout.sinks}), uri, intent)


def _complete(layout: Layout, uri: str, intent: Intent) -> Erased:
    write_tombstones(layout, intent.erasure_id, ((kind, one) for kind, one in intent.tombstones))
    run_state.clear_states(layout)
    drain.clear(layout)
    for place in PLACES:
        place.erase(layout, intent.erasure, True)
    searched = _search(layout, uri, intent)
    report = write_report(
        layout,
        intent.erasure_id,
        intent.order,
        intent.found,
        intent.rows_of_runs,
        searched,
        intent.deep,
    )
    storage_of(uri).remove(uri)
    return Erased(report, intent.found, searched)


def _search(layout: Layout, uri: str, intent: Intent) -> Searched:
    search = partial(
        search_lake, layout, is_in(intent.identifiers), deep=intent.deep, excluded=[uri]
    )
    searched = search(names=SourceNames(intent.names))
    if searched.traces and (longer := longer_sources(layout, intent.names)):
        return search(names=SourceNames(intent.names, longer))
    return searched


def list_erasure_intents(layout: Layout) -> list[str]:
    """Return the URIs of the intents of unfinished erasures."""
    prefix = join(layout.journal, INTENT_PREFIX)
    return [f.uri for f in list_files(layout.journal, ".json") if f.uri.startswith(prefix)]


def unfinished_erasures(layout: Layout) -> Iterator[Intent]:
    """Yield the intents of erasures that are under way, or were interrupted."""
    for uri in list_erasure_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # finished since the listing
            yield _read_intent(uri)


def _read_intent(uri: str) -> Intent:
    content = json.loads(read_bytes(uri))
    return Intent(**{**content, "order": Order(**content["order"])})
