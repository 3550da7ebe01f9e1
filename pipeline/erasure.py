"""Run `dicom-router forget` and `dicom-router retain`: select, plan and erase."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline import __version__
from pipeline.audit.trail import AuditTrail
from transforms.config.retention import Retention
from transforms.config.route_config import ConfigError, require_patient_key
from transforms.core.errors import UsageError
from transforms.core.patient_key import patient_key_of
from transforms.lake.change_decisions import prepare_changes
from transforms.lake.erase import (
    Erased,
    ErasureError,
    Plan,
    apply_erasure,
    plan_erasures,
    quarantined_with,
    quarantined_without_patient,
)
from transforms.lake.erasure_places import PLACES
from transforms.lake.erasure_report import MAX_ORDER_LENGTH, Order
from transforms.lake.erasure_selection import (
    LEGAL_HOLDS,
    Selection,
    SelectionError,
    column_of,
    count_without_patient,
    parse_selection,
    read_legal_holds,
    select_by_age,
    select_contents,
)
from transforms.lake.files import remove_partial_files
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
from transforms.lake.marker import FORMAT, format_of, require_claimable
from transforms.lake.tombstones import keyed_hash, tombstone_key
from transforms.storage.base import read_whole
from transforms.storage.schemes import absolute, storage_of

FORGET, RETAIN = "forget", "retain"
STDIN: Final = "-"
MAX_LIST_BYTES: Final = 64 << 20
MAX_TRACES_SHOWN: Final = 20
_NAMES: Final = {
    "patient_key": "patients",
    "study_instance_uid": "studies",
    "object_key": "objects",
    "content_sha256": "contents",
}


class LegalHold(UsageError):
    """Something that is to be erased is under a legal hold."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        layout: the lake and all of its sinks.
        kind: `FORGET` or `RETAIN`.
        selection: what to forget.
        retention: rules of retention, for `RETAIN`.
        holds: what must not be erased, besides the lake's own list.
        without_policy: whether no policy was given, whose legal holds are unknown then.
        ordered_by: text of the operator.
        apply: whether to erase.
        deep: whether to search objects that remain for traces.
        lock_timeout: maximum time to wait for other runs in seconds; 0 waits without limit.
        audit: where erasures are reported, or None.
        patient_key: key of the hashes of Patient IDs, or None if it is not known.
    """

    layout: Layout
    kind: str = FORGET
    selection: Selection = field(default_factory=Selection)
    retention: Retention = field(default_factory=Retention)
    holds: Selection = field(default_factory=Selection)
    without_policy: bool = False
    ordered_by: str = ""
    apply: bool = False
    deep: bool = False
    lock_timeout: float = 0.0
    audit: AuditTrail | None = None
    patient_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Outcome:
    """What is, or would be, erased.

    Attributes:
        contents: number of contents.
        found: number of rows or files by place.
        by_sink: number of contents by sink, for `RETAIN`.
        unknown: number of selected values without any row, by column.
        held: number of contents that are kept because of a legal hold, for `RETAIN`.
        by_bytes: number of quarantined contents that only their bytes show to be selected.
        without_patient: number of quarantined contents whose patient is unknown without `patient_key`,
            if that matters.
        rows_without_patient: number of other rows whose patient is unknown, if patients are selected.
        erased: results of the erasures; empty if nothing was erased.
    """

    contents: int
    found: Mapping[str, int]
    by_sink: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    held: int = 0
    by_bytes: int = 0
    without_patient: int = 0
    rows_without_patient: int = 0
    erased: tuple[Erased, ...] = ()

    @property
    def traces(self) -> tuple[str, ...]:
        """URIs of files with traces of what was erased."""
        return tuple(uri for one in self.erased for uri in one.searched.traces)


def run_erasure(request: Request) -> Outcome:
    """Erase what a request selects, or only count it.

    Raises:
        AuditError: the audit trail does not accept that something is erased; nothing was erased.
        ConfigError: the lake has format 1 and is not to be changed, or the order has no text.
        LegalHold: a legal hold forbids it; nothing was erased.
        ErasureError: an object is unknown, or is in a sink that the layout lacks.
        RuntimeError: another run holds a lock.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    layout = request.layout
    if not request.apply:
        if format_of(layout) != FORMAT:
            raise ConfigError(
                f"{layout.root} has format 1; migrate it with 'dicom-router compact', or give --apply"
            )
        return _erase(request)
    _require_order(request.ordered_by)
    require_claimable(layout)
    with lock_lake(layout, timeout=request.lock_timeout):
        remove_partial_files(layout)
        prepare_changes(layout)
        return _erase(request)


def _erase(request: Request) -> Outcome:
    layout, selection = request.layout, request.selection
    holds = request.holds | read_legal_holds(layout)
    by_sink: Counter[str] = Counter()
    unknown: dict[str, int] = {}
    held = by_bytes = 0
    kept = _contents_of(layout, holds, request.patient_key)
    if request.kind == RETAIN:
        before = request.retention.before_us(time.time_ns() // 1000)
        contents, by_sink = select_by_age(layout, before)
        contents, held = contents - kept, len(contents & kept)
    else:
        selected = select_contents(layout, selection)
        contents = selected.contents
        unknown = {
            name: len(missing)
            for name, values in selection.columns.items()
            if (missing := values - selected.matched.get(name, frozenset()))
        }
        if unknown.get("object_key"):
            raise ErasureError(
                f"{unknown['object_key']} of the given object keys are not in the lake; nothing "
                "was erased"
            )
        quarantined = quarantined_with(layout, selection, contents, request.patient_key)
        contents |= quarantined
        by_bytes = len(quarantined)
        _require_free(selection, contents, holds, kept)
    without_patient = 0
    if request.patient_key is None and (selection.patient_key or holds.patient_key):
        without_patient = len(quarantined_without_patient(layout))
    rows_without_patient = count_without_patient(layout) if selection.patient_key else 0
    if request.apply and request.audit is not None:
        request.audit.report()
        request.audit.forgetting(contents, request.ordered_by)
    found: Counter[str] = Counter()
    erased = []
    if contents or (request.kind == FORGET and selection):
        for plan in plan_erasures(layout, selection, contents):
            found.update(plan.found)
            if request.apply:
                erased.append(apply_erasure(layout, plan, _order(request, plan), deep=request.deep))
    return Outcome(
        len(contents),
        {place.name: found[place.name] for place in PLACES},
        by_sink,
        unknown,
        held,
        by_bytes,
        without_patient,
        rows_without_patient,
        tuple(erased),
    )


def _contents_of(layout: Layout, holds: Selection, patient_key: bytes | None) -> frozenset[str]:
    """Return the contents under a legal hold."""
    if not holds:
        return frozenset()
    named = select_contents(layout, holds).contents
    return named | quarantined_with(layout, holds, named, patient_key)


def _require_free(
    selection: Selection, contents: frozenset[str], holds: Selection, kept: frozenset[str]
) -> None:
    """Raise if something selected is under a legal hold."""
    of_values = sum(len(values & holds.columns[name]) for name, values in selection.columns.items())
    of_contents = len(kept & contents)
    if of_values or of_contents:
        raise LegalHold(
            f"{of_contents} of the {len(contents)} selected contents are under a legal hold; nothing was "
            "erased: leave them out, or take them off the list of legal holds"
        )


def _order(request: Request, plan: Plan) -> Order:
    """Return the order for a report, with keyed hashes of what was asked for."""
    asked: dict[str, Any]
    if request.kind == RETAIN:
        asked = {"days": dict(request.retention.days)}
    else:
        key = tombstone_key(request.layout)
        asked = {
            name: sorted(keyed_hash(key, value).hex() for value in values)
            for name, values in plan.selection.columns.items()
            if values
        }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Order(request.kind, request.ordered_by, now, __version__, asked)


def _require_order(text: str) -> None:
    if not text.strip():
        raise ConfigError("--apply needs --ordered_by: on whose order, for the report")
    if len(text) > MAX_ORDER_LENGTH or not text.isprintable():
        raise ConfigError(f"--ordered_by: write one line of at most {MAX_ORDER_LENGTH} characters")


def selection_of(
    patient_keys: Iterable[str], studies: Iterable[str], objects: Iterable[str]
) -> Selection:
    """Return the selection of the command line.

    Raises:
        SelectionError: a value is not of its kind; the message does not repeat it.
    """
    given = {
        "patient_key": ("--patient_key", frozenset(one.lower() for one in patient_keys)),
        "study_instance_uid": ("--study", frozenset(studies)),
        "object_key": ("--object", frozenset(one.lower() for one in objects)),
    }
    for column, (flag, values) in given.items():
        if any(column_of(value) != column for value in values):
            raise SelectionError(
                f"{flag}: write {_FORMS[column]}, as in the column {column} of the index"
            )
    return Selection(**{column: values for column, (_, values) in given.items()})


_FORMS: Final = {
    "patient_key": "64 hex digits",
    "study_instance_uid": "a UID",
    "object_key": "12 hex digits",
}


def read_list(name: str, flag: str) -> Selection:
    """Return the selection in a file, or in standard input.

    Raises:
        SelectionError: an entry is invalid, or the file cannot be read.
    """
    return parse_selection(_read_text(name, flag), flag)


def patients_in(name: str, patient_key_file: str | None) -> Selection:
    """Return the patients whose Patient IDs a file, or standard input, has.

    Raises:
        ConfigError: there is no key that can be used.
        SelectionError: a file cannot be read.
    """
    if patient_key_file is None:
        raise ConfigError("--patient_ids needs --patient_key_file, the key of the runs")
    key = require_patient_key(patient_key_file)
    ids = (line.strip() for line in _read_text(name, "--patient_ids").split("\n"))
    return Selection(frozenset(patient_key_of(one, key) for one in ids if one))


def _read_text(name: str, flag: str) -> str:
    """Return a text in UTF-8, without a byte order mark."""
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
            if len(data) > MAX_LIST_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        else:
            uri = absolute(name)
            data = read_whole(storage_of(uri), uri, MAX_LIST_BYTES)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SelectionError(f"{flag} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise SelectionError(f"{flag} is not UTF-8") from error


def warnings_of(request: Request) -> list[str]:
    """Return what the operator has to know before something is erased."""
    if not request.without_policy:
        return []
    return [
        f"legal holds of a policy are unknown without --policy; those of {LEGAL_HOLDS} and "
        "--legal_holds are respected"
    ]


def to_json(outcome: Outcome, request: Request) -> dict[str, Any]:
    """Return an outcome, ready for JSON."""
    layout = request.layout
    return {
        "lake": layout.root,
        "kind": request.kind,
        "contents": outcome.contents,
        "found": dict(outcome.found),
        "by_sink": dict(outcome.by_sink),
        "unknown": dict(outcome.unknown),
        "held": outcome.held,
        "by_bytes": outcome.by_bytes,
        "without_patient": outcome.without_patient,
        "rows_without_patient": outcome.rows_without_patient,
        "erased": [
            {
                "report": layout.relative(one.report),
                "searched_files": one.searched.files,
                "searched_bytes": one.searched.bytes,
                "traces": len(one.searched.traces),
            }
            for one in outcome.erased
        ],
    }


def render(outcome: Outcome, request: Request) -> str:
    """Return an outcome as text for the terminal."""
    layout = request.layout
    lines = [f"Lake {layout.root}", ""]
    units = {place.name: place.unit for place in PLACES}
    lines += [f"  {name:<20}{n:>9} {units[name]}" for name, n in outcome.found.items() if n]
    lines += [
        f"  {sink:<20}{n:>9} older than {request.retention.days[sink]} days"
        for sink, n in outcome.by_sink.items()
    ]
    if not outcome.contents:
        lines.append("  nothing in the lake is selected")
    lines.append("")
    for name, number in outcome.unknown.items():
        lines.append(
            f"given {_NAMES[name]} without an object in the lake: {number}; later ones are kept out"
        )
    if outcome.by_bytes:
        lines.append(
            f"quarantined objects that are selected by what is in their bytes: {outcome.by_bytes}"
        )
    if outcome.without_patient:
        lines.append(
            f"quarantined objects without a patient in their row: {outcome.without_patient}; with "
            "--patient_key_file, their bytes are searched for the Patient ID"
        )
    if outcome.rows_without_patient:
        lines.append(
            f"rows without a patient, which may be of those given: {outcome.rows_without_patient}; "
            "select them by study"
        )
    if outcome.held:
        lines.append(f"contents that are kept because of a legal hold: {outcome.held}")
    for one in outcome.erased:
        searched, number = one.searched, len(one.searched.traces)
        lines.append(
            f"searched {searched.files:,} files, {searched.bytes:,} bytes: "
            + (f"{number} files have a trace" if number else "no trace is left")
        )
        lines.append(f"report {layout.relative(one.report)}")
    if outcome.erased:
        lines.append("backups, copies, exports and the source are out of reach: erase there, too")
    elif not request.apply and (outcome.contents or outcome.unknown):
        lines.append("Nothing has been erased; give --apply to erase it")
    return "\n".join(lines)


def trace_lines(outcome: Outcome) -> list[str]:
    """Return a line for each file with a trace, up to `MAX_TRACES_SHOWN`."""
    return [f"  {uri}" for uri in outcome.traces[:MAX_TRACES_SHOWN]]
