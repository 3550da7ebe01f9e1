"""Report what has happened to the studies of a lake, after it has happened.

The index, the history, the table of derived objects and the answers of reviewers say what happened, and
`audit.notes` what was reported of it. Messages are made from the former, delivered, and then noted. So a
destination that does not respond loses nothing: what waits is delivered by the next command, or by
`dicom-router audit`. A process that is killed between delivering and noting makes the next one deliver
some messages again.
"""

from __future__ import annotations

import getpass
import itertools
import logging
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.destinations import AuditError, deliver
from pipeline.audit.messages import (
    DECIDED,
    DELETE,
    DERIVED,
    EXPORTED,
    FORGOTTEN,
    IDENTITY_READ,
    READ,
    REROUTED,
    REVIEWED,
    ROUTED,
    UNKNOWN_SOP_CLASS,
    UPDATE,
    Reporter,
    StudyEvent,
    application_started,
    application_stopped,
    data_exported,
    instances_accessed,
    instances_transferred,
    study_deleted,
)
from pipeline.audit.notes import Notes, Reported
from pipeline.audit.unreported import (
    COLUMNS,
    appended_rows,
    changed_rows,
    derived_rows,
    new_answers,
)
from transforms.config.audit_options import AuditOptions
from transforms.core.errors import UsageError
from transforms.core.option import from_values
from transforms.core.reasons import ProcessingFailure
from transforms.core.run_id import new_run_id
from transforms.lake.derived import derived_days
from transforms.lake.files import exists
from transforms.lake.index_files import DamagedFile, list_index, read_matching
from transforms.lake.labels import Label
from transforms.lake.layout import Layout
from transforms.lake.run_summaries import read_summaries
from transforms.lake.schema import run_of
from transforms.storage.base import ObjectInfo

LOG = logging.getLogger(__name__)
DELIVERED_TOGETHER: Final = 1_000
"""Messages in memory together, which one connection delivers."""
NO_STUDY: Final = "unknown"
"""Study of objects that could not be read."""
_STUDY: Final = ["study_instance_uid", "patient_key"]
_READS_IDENTITY: Final = frozenset({DECIDED, REROUTED})


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
        self._notes = Notes(layout)
        self._has_compared = False
        self._reported_derived: set[ObjectInfo] = set()
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
            self._notes.begin(since)

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
            since, reported, new = self._notes.since(), self._notes.load(), Reported()
            derived, files = derived_rows(
                self._layout, since, reported, new, self._reported_derived
            )
            number = self._deliver(self._about_runs(since, reported, new, derived))
            number += self._deliver(self._about_answers(since, reported, new))
            self._notes.add(new)
            self._reported_derived = files
        return number

    def try_report(
        self, run_id: str | None = None, warn: Callable[[str], object] = LOG.warning
    ) -> None:
        """As `report`; if that fails, only warn, since the next call reports what waits."""
        try:
            self.report(run_id)
        except (AuditError, OSError, ProcessingFailure, DamagedFile) as error:
            warn(f"audit messages wait ({error})")

    def report_derived(self, run_id: str | None = None) -> None:
        """Report what waits if there are rows about derived objects, the only trace of derivations.

        Called under the lake's lock, before such rows are replaced or removed.

        Args:
            run_id: as for `report`.

        Raises:
            AuditError: a destination does not accept the messages; nothing must be changed then.
            DamagedFile: a file of the lake cannot be read.
            ProcessingFailure: the lake's storage refused a write.
        """
        if self._has_derived():
            self.report(run_id)

    def try_report_derived(self, run_id: str | None = None) -> None:
        """As `report_derived`, but only warn where it would raise because messages wait."""
        if self._has_derived():
            self.try_report(run_id)

    def _has_derived(self) -> bool:
        return self._options.is_on and bool(derived_days(self._layout))

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

        def message(one: StudyEvent) -> bytes:
            detailed = replace(one, details=(("ordered_by", ordered_by),) if ordered_by else ())
            if total[one.study] == erased[one.study] and one.study != NO_STUDY:
                return study_deleted(self._reporter, detailed)
            return instances_accessed(self._reporter, detailed, DELETE)

        return self._deliver(map(message, events))

    def exporting(
        self, groups: Iterable[Mapping[str, Any]], media: str, details: Sequence[tuple[str, str]]
    ) -> int:
        """Report that objects are about to leave the lake; return the number of messages.

        Called before the export, of which the lake has no trace to report it from.

        Args:
            groups: numbers of rows by study, patient, SOP class and destination; see `events_by_study`.
            media: URI of the folder to which they are copied.
            details: types and values, of each message.

        Raises:
            AuditError: a destination does not accept the messages; nothing must be exported then.
        """
        if not self._options.is_on:
            return 0
        events = events_by_study(
            groups, at=datetime.now(UTC), events=(EXPORTED,), details=tuple(details)
        )
        return self._deliver(data_exported(self._reporter, one, media) for one in events)

    def reading_identities(self, groups: Iterable[Mapping[str, Any]]) -> int:
        """Report that Patient IDs are about to be read from objects of the lake, for keyed hashes.

        Args:
            groups: as for `exporting`; destinations may be missing.

        Returns:
            Number of messages.

        Raises:
            AuditError: a destination does not accept the messages; nothing must be read then.
        """
        if not self._options.is_on:
            return 0
        events = events_by_study(groups, at=datetime.now(UTC), events=(IDENTITY_READ,))
        return self._deliver(instances_accessed(self._reporter, one, READ) for one in events)

    def _deliver(self, messages: Iterable[bytes]) -> int:
        """Deliver messages, some at a time; return their number."""
        number, waiting = 0, iter(messages)
        while part := list(itertools.islice(waiting, DELIVERED_TOGETHER)):
            deliver(part, self._options, self._reporter.host)
            number += len(part)
        return number

    def _rows_of_studies(self, studies: Iterable[str]) -> Counter[str]:
        """Return the number of current rows of studies."""
        wanted = {"study_instance_uid": pa.array(sorted(studies), pa.string())}
        found: Counter[str] = Counter()
        for uri in list_index(self._layout):
            for table in read_matching(uri, ["study_instance_uid"], wanted):
                found.update(table["study_instance_uid"].to_pylist())
        return found

    def _about_runs(
        self, since: str, reported: Reported, new: Reported, derived: Iterable[pa.Table]
    ) -> Iterator[bytes]:
        """Yield messages about runs, and about each study of what they appended, changed or derived."""
        waiting = read_summaries(
            self._layout, None, lambda run: run > since and run not in reported.ended
        )
        summaries = {one["run_id"]: one for one in waiting}
        rows = appended_rows(self._layout, since, reported, new, compare=not self._has_compared)
        self._has_compared = True
        appended = _by_run_id(rows)
        changed = _by_run_id(changed_rows(self._layout, since, reported, new))
        derived_by = _by_run_id(derived)
        units: dict[str, set[str]] = defaultdict(set)
        for run_id in (*appended, *changed, *derived_by):
            units[run_of(run_id)].add(run_id)
        for run in sorted({*units, *summaries}):
            summary = summaries.get(run)
            if summary is not None:
                yield application_started(self._reporter, run, _time(summary["started_at"]))
            details = (("run_id", run),)
            for run_id in sorted(units[run]):
                for event in _events_of(
                    appended[run_id], events=(ROUTED, DECIDED), details=details
                ):
                    yield instances_transferred(self._reporter, event, f"sources of run {run}")
                for event in _events_of(changed[run_id], events=(REROUTED,), details=details):
                    yield instances_accessed(self._reporter, event, UPDATE)
                for event in _events_of(derived_by[run_id], events=(DERIVED,), details=details):
                    yield instances_accessed(self._reporter, event, READ)
            if summary is not None:
                at, complete = _time(summary["finished_at"]), bool(summary["complete"])
                yield application_stopped(self._reporter, run, at, complete=complete)
                new.ended.add(run)

    def _about_answers(self, since: str, reported: Reported, new: Reported) -> Iterator[bytes]:
        """Yield a message for each study and reviewer with answers that were not reported."""
        from_us = round(_time_of_id(since).timestamp() * 1e6)
        found: dict[tuple[str, str, str | None], list[Label]] = defaultdict(list)
        for label in new_answers(self._layout, from_us, reported, new):
            key = label.reviewer, label.study_instance_uid or NO_STUDY, label.patient_key
            found[key].append(label)
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


def trail_of(layout: Layout, arguments: Mapping[str, Any], version: str) -> AuditTrail | None:
    """Return the audit trail that the arguments of a command demand, or None; it has begun.

    Raises:
        UsageError: an option cannot be used.
    """
    options = from_values(AuditOptions, arguments)
    trail = AuditTrail(layout, options, version)
    trail.begin()
    return trail if options.is_on else None


def _by_run_id(tables: Iterable[pa.Table]) -> dict[str, list[pa.Table]]:
    """Return rows by run, or by segment of a stream."""
    found: dict[str, list[pa.Table]] = defaultdict(list)
    for table in tables:
        for run_id in pc.unique(table["run_id"]).to_pylist():
            found[run_id].append(table.filter(pc.equal(table["run_id"], run_id)))
    return found


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
    groups = (
        rows.append_column("at", times)
        .group_by([*_STUDY, "sop_class_uid", "destination"])
        .aggregate([("at", "max"), ("run_id", "count")])
        .rename_columns({"at_max": "at", "run_id_count": "number"})
        .to_pylist()
    )
    groups.sort(key=lambda one: [str(one[name]) for name in _STUDY])
    yield from events_by_study(groups, at=at, events=events, details=details)


def events_by_study(
    groups: Iterable[Mapping[str, Any]],
    *,
    events: tuple[str, ...],
    at: datetime | None = None,
    details: tuple[tuple[str, str], ...] = (),
) -> Iterator[StudyEvent]:
    """Yield an event for each study and patient.

    Args:
        groups: with study_instance_uid and patient_key, by which they are sorted, sop_class_uid,
            destination (may be missing), the number of rows, and the time at which they were decided.
        events: event types.
        at: time of the events; None for the latest one of the groups.
        details: types and values, of each event.
    """
    for (study, patient), of_study in itertools.groupby(groups, itemgetter(*_STUDY)):
        instances: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        times: list[datetime] = []
        for one in of_study:
            instances[one["sop_class_uid"] or UNKNOWN_SOP_CLASS] += one["number"]
            if (destination := one.get("destination")) is not None:
                destinations[destination] += one["number"]
            times.append(at or one["at"])
        read = (IDENTITY_READ,) if patient and _READS_IDENTITY.intersection(events) else ()
        yield StudyEvent(
            study or NO_STUDY,
            patient,
            max(times),
            instances,
            (*events, *read),
            (*details, *((f"destination:{d}", str(n)) for d, n in sorted(destinations.items()))),
        )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _time_of_id(run_id: str) -> datetime:
    return datetime.strptime(run_id[:23], "%Y%m%dT%H%M%SZ-%f").replace(tzinfo=UTC)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id has no name
        return "unknown"
