"""Report what has happened to the studies of a lake, after it has happened.

The index, the history and the answers of reviewers say what happened, and `audit/` in the lake what was
reported of it. Messages are made from the former, delivered, and then noted. So a destination that does
not respond loses nothing: what waits is delivered by the next command, or by `dicom-router audit`. A
process that is killed between delivering and noting makes the next one deliver some messages again.
"""

from __future__ import annotations

import getpass
import json
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.destinations import deliver
from pipeline.audit.messages import (
    DECIDED,
    DELETE,
    FORGOTTEN,
    IDENTITY_READ,
    REROUTED,
    REVIEWED,
    ROUTED,
    UNKNOWN_SOP_CLASS,
    UPDATE,
    Reporter,
    StudyEvent,
    application_started,
    application_stopped,
    instances_accessed,
    instances_transferred,
    study_deleted,
)
from transforms.config.audit_options import AuditOptions
from transforms.core.errors import UsageError
from transforms.core.option import from_values
from transforms.core.reasons import BY_PERSON
from transforms.core.run_id import new_run_id
from transforms.lake.files import (
    exists,
    list_files,
    put_bytes,
    put_if_absent,
    read_json,
    replace_file,
)
from transforms.lake.index_files import list_index, read_index, read_matching
from transforms.lake.labels import read_labels
from transforms.lake.layout import Layout
from transforms.lake.run_summaries import read_summaries
from transforms.lake.schema import RUN_ID_SEPARATOR
from transforms.storage.schemes import join

SINCE: Final = "since"
LABELS: Final = "labels-"
COLUMNS: Final = (
    "run_id study_instance_uid sop_class_uid patient_key status destination decided_by decided_at "
    "ingested_at"
).split()
NO_STUDY: Final = "unknown"
"""Study of objects that could not be read."""


@dataclass(frozen=True)
class Report:
    """What is reported.

    Attributes:
        messages: in the order of their events.
        noted: units of the events by the name of their note: runs and their segments, and answers.
    """

    messages: list[bytes]
    noted: dict[str, set[str]]


class AuditTrail:
    """Report the events of a lake. Thread-safe.

    Args:
        layout: the lake.
        options: where messages go.
        version: of the router.

    Raises:
        UsageError: an option cannot be used.
    """

    def __init__(self, layout: Layout, options: AuditOptions, version: str) -> None:
        if problems := options.problems():
            raise UsageError("; ".join(problems))
        self._layout, self._options = layout, options
        host = socket.gethostname()
        self._reporter = Reporter(options.audit_source or host, _account(), host, version)
        self._lock = threading.Lock()

    def begin(self, run_id: str | None = None) -> None:
        """Note that events are reported from now on, unless that was noted before.

        Args:
            run_id: id of the first run to report; None for the next one.

        Raises:
            ProcessingFailure: the lake's storage refused the write.
        """
        if self._options.is_on and (run_id is None or exists(self._layout.marker)):
            since = new_run_id() if run_id is None else run_id[:-1]  # sorts before it
            self._put(SINCE, json.dumps({"run_id": since}).encode())

    def report(self, run_id: str | None = None) -> int:
        """Report what was not reported yet; return the number of messages.

        Args:
            run_id: as for `begin`, of a run that has made the lake.

        Raises:
            AuditError: a destination does not accept them.
            DamagedFile: a file of the lake cannot be read.
            ProcessingFailure: the lake's storage refused a write.
        """
        if not self._options.is_on:
            return 0
        with self._lock:
            self.begin(run_id)
            found = self._unreported()
            deliver(found.messages, self._options, self._reporter.host)
            for name, units in found.noted.items():
                self._note(name, units)
        return len(found.messages)

    def forgetting(self, contents: Collection[str], ordered_by: str = "") -> int:
        """Report that contents are about to be erased; return the number of messages.

        Called before the erasure, of which no row remains to report it from, after `report`.

        Args:
            contents: values of content_sha256.
            ordered_by: on whose order.

        Raises:
            AuditError: a destination does not accept the messages; nothing must be erased then.
            DamagedFile: an index file cannot be read.
        """
        if not (self._options.is_on and contents):
            return 0
        wanted = {"content_sha256": pa.array(sorted(contents), pa.string())}
        erased: Counter[str] = Counter()
        rows: list[pa.Table] = []
        for uri in list_index(self._layout):
            rows += read_matching(uri, [*COLUMNS, "content_sha256"], wanted)
        now = datetime.now(UTC)
        events = list(_events_of(rows, at=now, events=(FORGOTTEN,)))
        for one in events:
            erased[one.study] += sum(one.instances.values())
        total = self._rows_of_studies(erased)
        messages = []
        for one in events:
            detailed = replace(one, details=(("ordered_by", ordered_by),) if ordered_by else ())
            whole = total[one.study] == erased[one.study] and one.study != NO_STUDY
            messages.append(
                study_deleted(self._reporter, detailed)
                if whole
                else instances_accessed(self._reporter, detailed, DELETE)
            )
        deliver(messages, self._options, self._reporter.host)
        return len(messages)

    def _rows_of_studies(self, studies: Iterable[str]) -> Counter[str]:
        """Return the number of current rows of studies."""
        wanted = {"study_instance_uid": pa.array(sorted(studies), pa.string())}
        found: Counter[str] = Counter()
        for uri in list_index(self._layout):
            for table in read_matching(uri, ["study_instance_uid"], wanted):
                found.update(table["study_instance_uid"].to_pylist())
        return found

    def _unreported(self) -> Report:
        """Return the messages about events that no note has."""
        since = self._since()
        notes = {
            file.uri.rpartition("/")[2].removesuffix(".json"): set(read_json(file.uri)["units"])
            for file in list_files(self._layout.audit, ".json")
            if not file.uri.endswith(f"/{SINCE}.json")
        }
        noted: dict[str, set[str]] = defaultdict(set)
        messages = [
            *self._about_runs(since, notes, noted),
            *self._about_answers(since, notes, noted),
        ]
        return Report(messages, noted)

    def _about_runs(
        self, since: str, notes: Mapping[str, set[str]], noted: dict[str, set[str]]
    ) -> Iterator[bytes]:
        reported = set().union(*notes.values())
        rows: dict[str, list[pa.Table]] = defaultdict(list)
        for unit, table in self._rows(since, reported):
            rows[unit].append(table)
        waiting = read_summaries(
            self._layout, None, lambda run: run > since and f"{run}#" not in reported
        )
        summaries = {one["run_id"]: one for one in waiting}
        by_run: dict[str, list[str]] = defaultdict(list)
        for unit in rows:
            by_run[unit.partition(RUN_ID_SEPARATOR)[0]].append(unit)
        for run in sorted({*by_run, *summaries}):
            summary = summaries.get(run)
            if summary is not None:
                yield application_started(self._reporter, run, _time(summary["started_at"]))
            again = bool(by_run.get(run)) and _decides_again(summary or self._summary(run))
            for unit in sorted(by_run.get(run, ())):
                yield from self._about_unit(run, rows[unit], again=again)
                noted[run].add(unit)
            if summary is not None:
                at, complete = _time(summary["finished_at"]), bool(summary["complete"])
                yield application_stopped(self._reporter, run, at, complete=complete)
                noted[run].add(f"{run}#")

    def _about_unit(self, run: str, tables: list[pa.Table], *, again: bool) -> Iterator[bytes]:
        """Yield a message about each study of the rows that a run, or a segment of a stream, has."""
        for person in (False, True):
            by_person = [t.filter(_is_by_person(t, person)) for t in tables]
            kinds = (REROUTED,) if again or person else (ROUTED, DECIDED)
            for event in _events_of(by_person, events=kinds, details=(("run_id", run),)):
                if kinds == (REROUTED,):
                    yield instances_accessed(self._reporter, event, UPDATE)
                else:
                    yield instances_transferred(self._reporter, event, f"sources of run {run}")

    def _summary(self, run: str) -> Mapping[str, Any]:
        """Return the summary of a run that may have been reported; empty while it has none."""
        return next(iter(read_summaries(self._layout, 1, lambda one: one == run)), {})

    def _rows(self, since: str, reported: set[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield the rows of units that were not reported, current and superseded ones."""

        def units(table: pa.Table) -> list[str]:
            return [
                unit
                for unit in pc.unique(table["run_id"]).to_pylist()
                if unit not in reported and unit.partition(RUN_ID_SEPARATOR)[0] > since
            ]

        def read(files: list[str]) -> list[pa.Table]:
            found = [uri for uri in files if any(map(units, read_matching(uri, ["run_id"], {})))]
            return [table for uri in found for table in read_matching(uri, COLUMNS, {})]

        history = [file.uri for file in list_files(self._layout.history, ".parquet")]
        for table in (*read_index(self._layout, read), *read(history)):
            for unit in units(table):
                yield unit, table.filter(pc.equal(table["run_id"], unit))

    def _about_answers(
        self, since: str, notes: Mapping[str, set[str]], noted: dict[str, set[str]]
    ) -> Iterator[bytes]:
        """Yield a message for each study and reviewer with answers that were not reported."""
        from_us = _time_of_id(since).timestamp() * 1e6
        found: dict[tuple[str, str, str | None], list[Any]] = defaultdict(list)
        for label in read_labels(self._layout):
            name = f"{LABELS}{label.answered_date}"
            if label.answered_at < from_us or label.label_id in notes.get(name, ()):
                continue
            key = label.reviewer, label.study_instance_uid or NO_STUDY, label.patient_key
            found[key].append(label)
            noted[name].add(label.label_id)
        for (reviewer, study, patient), labels in sorted(
            found.items(), key=lambda one: str(one[0])
        ):
            at = datetime.fromtimestamp(max(one.answered_at for one in labels) / 1e6, UTC)
            answers = Counter(one.answer for one in labels)
            yield instances_accessed(
                self._reporter,
                StudyEvent(
                    study,
                    patient,
                    at,
                    {UNKNOWN_SOP_CLASS: len(labels)},
                    (REVIEWED,),
                    [(f"answer:{answer}", str(n)) for answer, n in sorted(answers.items())],
                    reviewer,
                ),
                UPDATE,
            )

    def _since(self) -> str:
        """Return the id of a run that had begun when events were first to be reported."""
        return str(read_json(join(self._layout.audit, f"{SINCE}.json"))["run_id"])

    def _note(self, name: str, units: set[str]) -> None:
        uri = join(self._layout.audit, f"{name}.json")
        if not exists(uri):
            self._put(name, _units(units))
            return
        data = _units({*read_json(uri)["units"], *units})
        layout = self._layout
        replace_file(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)

    def _put(self, name: str, data: bytes) -> None:
        layout = self._layout
        uri, scratch = join(layout.audit, f"{name}.json"), layout.scratch()
        put = put_if_absent if name == SINCE else put_bytes
        put(uri, data, scratch=scratch, file_mode=layout.file_mode)


def trail_of(layout: Layout, arguments: Mapping[str, Any], version: str) -> AuditTrail | None:
    """Return the audit trail that the arguments of a command demand, or None; it has begun.

    Raises:
        UsageError: an option cannot be used.
    """
    options = from_values(AuditOptions, arguments)
    trail = AuditTrail(layout, options, version)
    trail.begin()
    return trail if options.is_on else None


def _decides_again(summary: Mapping[str, Any]) -> bool:
    """Return whether a run has decided images that the lake already had."""
    reprocess = summary.get("options", {}).get("reprocess", "none")
    return bool(summary.get("kind") == "reroute" or reprocess != "none")


def _units(units: set[str]) -> bytes:
    return json.dumps({"units": sorted(units)}).encode()


def _events_of(
    tables: Iterable[pa.Table],
    *,
    events: tuple[str, ...],
    at: datetime | None = None,
    details: tuple[tuple[str, str], ...] = (),
) -> Iterator[StudyEvent]:
    """Yield an event for each study and patient of some rows."""
    found = [table.select(COLUMNS) for table in tables if len(table)]
    if not found:
        return
    rows = pa.concat_tables(found)
    times = pc.coalesce(rows["decided_at"], rows["ingested_at"])
    grouped = (
        rows.append_column("at", times)
        .group_by(["study_instance_uid", "patient_key", "sop_class_uid", "destination"])
        .aggregate([("at", "max"), ("run_id", "count")])
    )
    studies: dict[tuple[str, str | None], list[dict[str, Any]]] = defaultdict(list)
    for one in grouped.to_pylist():
        studies[one["study_instance_uid"] or NO_STUDY, one["patient_key"]].append(one)
    for (study, patient), groups in sorted(studies.items(), key=lambda one: str(one[0])):
        instances: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        for one in groups:
            instances[one["sop_class_uid"] or UNKNOWN_SOP_CLASS] += one["run_id_count"]
            destinations[one["destination"]] += one["run_id_count"]
        read = (IDENTITY_READ,) if patient and FORGOTTEN not in events else ()
        yield StudyEvent(
            study,
            patient,
            at or max(one["at_max"] for one in groups),
            instances,
            (*events, *read),
            (*details, *((f"destination:{d}", str(n)) for d, n in sorted(destinations.items()))),
        )


def _is_by_person(table: pa.Table, person: bool) -> pa.ChunkedArray:
    found = pc.fill_null(pc.equal(table["decided_by"], BY_PERSON), False)
    return found if person else pc.invert(found)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _time_of_id(run_id: str) -> datetime:
    return datetime.strptime(run_id[:23], "%Y%m%dT%H%M%SZ-%f").replace(tzinfo=UTC)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id has no name
        return "unknown"
