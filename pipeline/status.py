"""The status of a lake: what runs, how far it is, what fails, and the last runs; reads only."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.summaries import (
    REROUTE,
    format_duration,
    interval_text,
    kind_of,
    plural,
    unmet_lines,
    utc_text,
)
from transforms.core.reasons import FORGOTTEN, MEANINGS, TERMS, Reason, Status
from transforms.lake import drain
from transforms.lake.files import list_files, read_json
from transforms.lake.index_files import (
    count_rows,
    list_index,
    open_index_file,
    read_batches,
    read_index,
)
from transforms.lake.journal import list_journal
from transforms.lake.layout import LOCK, WRITER_LOCK, Layout, partition_of
from transforms.lake.lock import LockState, read_lock_state
from transforms.lake.marker import format_of
from transforms.lake.published_tables import table_states
from transforms.lake.run_state import LAUNCHER, read_reviews, read_states
from transforms.lake.run_summaries import read_summaries
from transforms.storage.schemes import is_local

RECENT_HOURS: Final = 24
MAX_RUNS, MAX_REASONS, MAX_FAILURES, MAX_LETTERS = 5, 5, 5, 5
"""Maximum numbers of runs, reasons of quarantine, failures and dead letters that are listed."""
MAX_REVIEWS: Final = 5
MISSED_UPDATES: Final = 4
"""Intervals without a state after which a review may have ended."""
MAX_COUNTED_FILES: Final = 500
"""Number of index files in a store up to which their rows are counted."""
_RECENT_COLUMNS: Final = ("ingested_at", "status", "reason")


def status_of(layout: Layout) -> dict[str, Any]:
    """Return the status of a lake, ready for JSON. Takes no lock and writes nothing.

    Raises:
        OSError: the lake cannot be read.
        DamagedFile: an index file cannot be read.
    """
    summaries = read_summaries(layout, MAX_RUNS)
    files = list_index(layout)
    days = sorted({partition_of(uri) for uri in files})
    return {
        "lake": layout.root,
        "format": format_of(layout),
        "at": utc_text(time.time()),
        "running": running(layout),
        "index_locked": _lock(read_lock_state(layout, LOCK)),
        "reviews": [_review(state) for state in read_reviews(layout)],
        "stopping": drain.is_requested(layout),
        "journal_files": len(list_journal(layout)),
        "index": {
            "rows": _count_rows(files),
            "files": len(files),
            "first_day": days[0] if days else None,
            "last_day": days[-1] if days else None,
        },
        "tables": [{**asdict(state), "in_step": state.in_step} for state in table_states(layout)],
        "recent": _recent(layout),
        "dead_letters": _dead_letters(layout),
        "runs": [_run(summary) for summary in summaries],
    }


def render(status: Mapping[str, Any]) -> str:
    """Return the status as text, at most about 30 lines."""
    lines = [f"Lake {status['lake']}, format {status['format']}", ""]
    lines += _section("running", _running_lines(status))
    lines += _section("reviews", _review_lines(status["reviews"]))
    index = status["index"]
    rows = "" if index["rows"] is None else f"{index['rows']:,} rows in "
    span = f", {index['first_day']} to {index['last_day']}" if index["files"] else ""
    lines += _section("index", [f"{rows}{index['files']:,} files{span}"])
    lines += _section("tables", [_table_line(one) for one in status["tables"]])
    lines += _section(f"last {RECENT_HOURS} h", [_counts_text(status["recent"]["counts"])])
    lines += _section("quarantine", _quarantine_lines(status["recent"]["quarantined"]))
    lines += _section("failing", _failing_lines(status))
    lines += _section("runs", [_run_line(run) for run in status["runs"]] or ["none has ended yet"])
    return "\n".join(lines)


def running(layout: Layout) -> dict[str, Any]:
    """Return what writes to a lake, by its lock and by what the run has written about itself.

    The keys are held ("yes", "no", or "unknown" from this host), host, pid and since of the holder,
    interrupted (id of a run that was killed, or None), run (state of the launching process, or None) and
    inputs (states of the sources of a stream).

    Raises:
        OSError: the lake cannot be read.
    """
    states = read_states(layout)
    writer = read_lock_state(layout, WRITER_LOCK)
    found = {**_lock(writer), "interrupted": None, "run": None, "inputs": []}
    launcher = next((state for state in states if state["part"] == LAUNCHER), None)
    if launcher is None:
        return found
    if writer.held is False:
        return {**found, "interrupted": launcher["run_id"]}
    holder = writer.holder
    if holder is None or (launcher["host"], launcher["pid"]) != (holder.host, holder.pid):
        return found
    of_run = [state for state in states if state["run_id"] == launcher["run_id"]]
    return {**found, "run": launcher, "inputs": [s for s in of_run if "in_flight" in s]}


def _lock(state: LockState) -> dict[str, Any]:
    held = {True: "yes", False: "no", None: "unknown"}[state.held]
    holder = state.holder if state.held is not False else None
    return {
        "held": held,
        "host": holder.host if holder else None,
        "pid": holder.pid if holder else None,
        "since": holder.since if holder else None,
    }


def _count_rows(files: Sequence[str]) -> int | None:
    """Return the number of rows of index files, from their footers; None: a store has too many."""
    if not all(map(is_local, files)) and len(files) > MAX_COUNTED_FILES:
        return None
    rows = 0
    for uri in files:
        with contextlib.suppress(FileNotFoundError):  # compacted since the listing
            rows += count_rows(uri)
    return rows


def _recent(layout: Layout) -> dict[str, Any]:
    """Return the number of rows of the last hours by status, and of quarantined ones by reason."""
    since = time.time() - RECENT_HOURS * 3600
    first_day = time.strftime("%Y-%m-%d", time.gmtime(since))
    first = pa.scalar(int(since * 1e6), pa.int64())

    def read(files: list[str]) -> tuple[Counter[str], Counter[str]]:
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for uri in files:
            if partition_of(uri) < first_day:
                continue
            with open_index_file(uri) as file:
                for table in read_batches(file, _RECENT_COLUMNS):
                    rows = table.filter(
                        pc.greater_equal(table["ingested_at"].cast(pa.int64()), first)
                    )
                    counts.update(rows["status"].to_pylist())
                    bad = rows.filter(pc.equal(rows["status"], Status.QUARANTINED))
                    reasons.update(bad["reason"].to_pylist())
        return counts, reasons

    counts, reasons = read_index(layout, read)
    return {
        "hours": RECENT_HOURS,
        "counts": {str(status): counts[status] for status in Status},
        "quarantined": [
            {"reason": reason, "objects": number}
            for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


def _dead_letters(layout: Layout) -> dict[str, Any]:
    """Return the number of dead letters, and the last ones with their reasons."""
    found = list_files(layout.dead_letters, ".json")
    found.sort(key=lambda one: (one.modified or 0.0, one.uri), reverse=True)
    latest = []
    for one in found[:MAX_LETTERS]:
        with contextlib.suppress(OSError, ValueError):
            letter = read_json(one.uri)
            latest.append(
                {
                    "at": None if one.modified is None else utc_text(one.modified),
                    "object_key": letter.get("object_key"),
                    "reason": str(letter.get("reason")),
                }
            )
    return {"number": len(found), "latest": latest}


def _run(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the status shows of a run summary, of this or an earlier release."""
    return {
        "run_id": summary.get("run_id"),
        "kind": kind_of(summary),
        "complete": bool(summary.get("complete")),
        "started_at": summary.get("started_at"),
        "finished_at": summary.get("finished_at"),
        "duration_s": summary.get("duration_s"),
        "host": summary.get("host"),
        "counts": summary["counts"],
        "failures": list(summary.get("failures", ()))[:MAX_FAILURES],
        "unmet": [line.strip() for line in unmet_lines(summary)],
    }


def _review(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the status shows of a review that is open, or was when it last wrote its state."""
    age = time.time() - float(state["updated_at"])
    return {
        "host": state.get("host"),
        "pid": state.get("pid"),
        "port": state.get("port"),
        "since": utc_text(float(state.get("started_at", state["updated_at"]))),
        "updated_at": utc_text(float(state["updated_at"])),
        "responds": age < MISSED_UPDATES * float(state.get("interval_s", 0)),
        "images": int(state.get("images", 0)),
        "changed": int(state.get("changed", 0)),
        "waiting": int(state.get("waiting", 0)),
        "problem": str(state.get("problem", "")),
    }


def _review_lines(reviews: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in reviews[:MAX_REVIEWS]:
        process = f"process {one['pid']} on {one['host']}, port {one['port']}, since {one['since']}"
        if not one["responds"]:
            lines.append(f"{process}; nothing heard of it since {one['updated_at']}")
            continue
        waiting = f", {one['waiting']:,} answers not applied yet" if one["waiting"] else ""
        problem = f" ({one['problem']})" if one["waiting"] and one["problem"] else ""
        lines.append(
            f"{process}: {one['images']:,} images wait, {one['changed']:,} decisions changed"
            f"{waiting}{problem}"
        )
    if len(reviews) > MAX_REVIEWS:
        lines.append(f"{len(reviews) - MAX_REVIEWS} more")
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """Return lines with a title before the first one."""
    return [f"{title if not number else '':<12}{line}" for number, line in enumerate(lines)]


def _running_lines(status: Mapping[str, Any]) -> list[str]:
    running = status["running"]
    lock = f"process {running['pid']} on {running['host']}, since {running['since']}"
    if running["interrupted"]:
        return [
            f"nothing; run {running['interrupted']} was interrupted, and the next run recovers it"
        ]
    if running["held"] == "no":
        other = status["index_locked"]
        if other["held"] == "yes":
            return [
                f"process {other['pid']} on {other['host']} changes the index, since {other['since']}"
            ]
        if status["journal_files"]:
            return [
                "nothing; the last run was incomplete or interrupted, and the next one recovers it"
            ]
        return ["nothing"]
    if running["held"] == "unknown":
        lock += "; whether it still runs cannot be seen from this host"
    run = running["run"]
    if run is None:
        return [f"a run: {lock}"]
    kind = "a stream" if run.get("streaming") else "a batch run"
    stopping = ", stopping" if run.get("streaming") and status["stopping"] else ""
    lines = [
        f"{kind} of {plural(run.get('inputs', 0), 'input')} ({run.get('source')}){stopping}: {lock}"
    ]
    lines.append(f"{_progress(run, running['inputs'])}, as of {utc_text(run['updated_at'])}")
    return [*lines, *run.get("unmet", ())]


def _progress(run: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> str:
    if not run.get("streaming"):
        if run.get("discovered") is None:
            return "its engine does not say how far it is"
        return f"{run['discovered']:,} discovered so far, {run['done']:,} done, {run['failed']:,} failed"
    parts = [
        f"{plural(run['rows'], 'row')} since its start",
        f"{run['last_interval']:,} in the last {interval_text(run['interval_s'])}",
    ]
    if inputs:
        retried = sum(one["retried"] for one in inputs)
        parts.append(
            f"{sum(one['in_flight'] for one in inputs):,} in flight"
            + (f" ({retried:,} retried)" if retried else "")
        )
        waiting = [one["waiting"] for one in inputs if one.get("waiting") is not None]
        if waiting:
            parts.append(f"{sum(waiting):,} waiting")
    if run.get("failed") is not None:
        parts.append(f"{run['failed']:,} errors")
    return ", ".join(parts)


def _table_line(table: Mapping[str, Any]) -> str:
    if table["problem"]:
        return f"{table['name']}: cannot be read ({table['problem']})"
    if table["in_step"]:
        return f"{table['name']}: {table['version']}, in step with the index"
    behind = table["missing"] + table["extra"]
    return (
        f"{table['name']}: {plural(behind, 'file')} behind the index; the next run publishes them"
    )


def _quarantine_lines(quarantined: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in quarantined[:MAX_REASONS]:
        lines.append(f"{one['objects']:,} {one['reason']}: {_meaning(one['reason'])}")
    if rest := sum(one["objects"] for one in quarantined[MAX_REASONS:]):
        lines.append(f"{rest:,} for other reasons")
    return lines


def _meaning(reason: str) -> str:
    """Return the meaning of a reason; later releases may have others."""
    try:
        return MEANINGS[Reason(reason)].text
    except ValueError:
        return "unknown to this release"


def _failing_lines(status: Mapping[str, Any]) -> list[str]:
    lines = []
    letters = status["dead_letters"]
    if letters["number"]:
        latest = letters["latest"][0] if letters["latest"] else None
        last = f", the last: {latest['reason']}, {latest['at']}" if latest else ""
        lines.append(f"{plural(letters['number'], 'dead letter')} in LAKE/dead_letters{last}")
    retried = [key for one in status["running"]["inputs"] for key in one.get("retried_keys", ())]
    if retried:
        lines.append(f"retried until they have a row: {', '.join(retried[:MAX_FAILURES])}")
    for run in status["runs"][:1]:
        if not run["complete"]:
            lines.append(f"run {run['run_id']} is incomplete; run the same command again")
            lines += [
                f"  {one['object_key']} at {one['stage']}, {one['reason']}: {_meaning(one['reason'])}"
                for one in run["failures"]
            ]
        lines += [f"run {run['run_id']}: {text}" for text in run["unmet"]]
    return lines or ["nothing"]


def _run_line(run: Mapping[str, Any]) -> str:
    if not run["complete"]:
        verdict = f"incomplete, {run['counts'].get('failed', 0)} failed"
    else:
        verdict = "complete, not as expected" if run["unmet"] else "complete"
    when = run["started_at"] or run["finished_at"]
    duration = f", {format_duration(run['duration_s'])}" if run["duration_s"] is not None else ""
    counts = _counts_text(run["counts"])
    if run["kind"] == REROUTE:
        counts = f"{run['counts']['discovered']:,} decided again ({counts})"
    return f"{when}  {run['kind']}, {verdict}{duration}: {counts}"


def _counts_text(counts: Mapping[str, int]) -> str:
    shown = [f"{counts[name]:,} {name}" for name in (*TERMS, FORGOTTEN) if counts.get(name)]
    return ", ".join(shown) or "nothing arrived"
