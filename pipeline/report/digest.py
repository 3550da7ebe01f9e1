"""The short form of a report, for a mail or another program: what arrived, what waits, what is wrong."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.report import agreement, formats, queries, statistics
from pipeline.report.content import choose_baseline
from pipeline.report.database import ReportData
from pipeline.report.runs import read_run
from pipeline.summaries import REROUTE, kind_of, time_line, unmet_lines
from transforms.core.labels import OTHER_SINKS
from transforms.core.reasons import FORGOTTEN, TERMS, Reason, Status
from transforms.lake.files import list_files
from transforms.lake.run_summaries import read_summaries

MAX_VALUES: Final = 10
MAX_TEXT_VALUES, MAX_REASONS, MAX_EXAMPLES, MAX_UNMET, MAX_FAILURES = 4, 3, 2, 3, 2
"""Maximum numbers of lines, or of values in a line, of the text, which has about 35 lines at most."""
MAX_JSON_EXAMPLES: Final = 50
MAX_LINE: Final = 160
DISAGREEMENTS_QUEUE: Final = "Header disagrees"
"""Name of the queue of `review` with images whose header disagrees."""
_EXAMPLE: Final = (
    "object_key destination confidence header_label header_probability body_part_examined modality "
    "manufacturer"
).split()


def digest(data: ReportData, baseline_name: str | None = None) -> dict[str, Any]:
    """Return what a report shows, without pictures, ready for JSON.

    Args:
        data: rows of a lake or of a run.
        baseline_name: name of the baseline that was loaded; None compares with earlier rows.
    """
    layout, run_id = data.scope.layout, data.scope.run_id
    summaries = read_summaries(layout, 1)
    latest = summaries[0] if summaries else None
    totals = queries.overview(data)
    days = queries.days(data)
    agreement.load_labels(data)
    baseline = choose_baseline(data, days, baseline_name)
    drift = [] if baseline is None else statistics.drift(data, baseline.current, baseline.rows)
    wrong = queries.disagreements(data, MAX_JSON_EXAMPLES)
    return {
        "lake": layout.root,
        "run": read_run(layout, run_id) if run_id is not None else None,
        "run_id": run_id,
        "latest_run": latest,
        "counts": queries.status_counts(data),
        "totals": totals,
        "destinations": queries.destinations(data),
        "modalities": queries.breakdown(data, "modality", MAX_VALUES),
        "manufacturers": queries.breakdown(data, "manufacturer", MAX_VALUES),
        "days": days,
        "review": queries.reasons(data, Status.REVIEW),
        "quarantine": queries.reasons(data, Status.QUARANTINED),
        "not_xray": queries.reasons(data, Status.NOT_XRAY),
        "disagreements": [{name: one[name] for name in _EXAMPLE} for one in wrong],
        "conflicts": queries.conflicts(data, MAX_VALUES),
        "dead_letters": len(list_files(layout.dead_letters, ".json")),
        "models": queries.models(data),
        "reviewers": agreement.reviewer_overview(data),
        "drift": {
            "baseline": None if baseline is None else baseline.name,
            "quantities": [
                {"name": one.name, "psi": one.psi, "chance": one.chance, "reading": one.reading}
                for one in drift
            ],
        },
    }


def digest_text(found: Mapping[str, Any]) -> str:
    """Return a digest as text of about 35 lines at most, none longer than `MAX_LINE`."""
    root = shlex.quote(found["lake"])
    option = f" --run {found['run_id']}" if found["run_id"] else ""
    wrong = _wrong_lines(found)
    waiting = _waiting_lines(found, root)
    scope = f"run {found['run_id']}" if found["run_id"] else "all current rows"
    verdict = "something is wrong" if wrong else "images wait" if waiting else "all is well"
    lines = [f"Lake {found['lake']}, {scope}: {verdict}"]
    run = found["run"] or found["latest_run"]
    if run is not None:
        name = "" if found["run_id"] else f"latest run {run['run_id']}, "
        lines.append(f"{name}{time_line(run) or run.get('finished_at')}")
    lines += ["", "ARRIVED", *_indented(_arrived_lines(found))]
    lines += ["", "WAITS", *_indented(waiting or ["nothing"])]
    if headers := _header_lines(found, root):
        lines += ["", "HEADERS", *_indented(headers)]
    lines += ["", "WRONG", *_indented(wrong or ["nothing"])]
    lines += ["", f"Pictures and details: dicom-router report {root}{option}"]
    return "\n".join(
        line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…" for line in lines
    )


def _arrived_lines(found: Mapping[str, Any]) -> list[str]:
    run, totals = found["run"], found["totals"]
    counts = {**found["counts"], **({} if run is None else run["counts"])}
    shown = [f"{counts[term]:,} {term}" for term in (*TERMS, FORGOTTEN) if counts.get(term)]
    number = counts.get("discovered", totals["rows"])
    size = formats.bytes_text(totals["size_bytes"])
    what = f"{formats.plural(number, 'object')}, {size}"
    if run is not None and kind_of(run) == REROUTE:
        what = f"{formats.plural(number, 'image')} decided again"
    lines = [f"{what}: {', '.join(shown) or 'nothing'}"]
    sinks = [row for row in found["destinations"] if row["destination"] not in OTHER_SINKS]
    if sinks:
        lines.append(", ".join(f"{row['images']:,} {row['destination']}" for row in sinks))
    for name, title in (("modalities", "by modality"), ("manufacturers", "by manufacturer")):
        if found[name]:
            lines.append(f"{title}: {_values(found[name])}")
    return lines


def _waiting_lines(found: Mapping[str, Any], root: str) -> list[str]:
    lines = []
    if number := found["totals"]["waiting"]:
        reasons = [row for row in found["review"] if row["reason"] != Reason.UNREADABLE]
        why = ", ".join(f"{row['images']:,} {row['reason']}" for row in reasons)
        lines.append(f"{formats.plural(number, 'image')} in review: {why}")
        lines.append(f"decide them with: dicom-router review {root}")
    return lines


def _header_lines(found: Mapping[str, Any], root: str) -> list[str]:
    """Return what disagrees with the pixels: the archive is wrong, not the lake."""
    totals = found["totals"]
    if not totals["disagreements"]:
        return []
    lines = [
        f"{totals['disagreements']:,} of {totals['compared']:,} headers name another region than the "
        "pixels, most certainly:"
    ]
    for one in found["disagreements"][:MAX_EXAMPLES]:
        lines.append(
            f"  {one['object_key']}: header {formats.header_text(one['header_label'])}, "
            f"pixels {one['destination']}"
        )
    lines.append(f"check them with: dicom-router review {root} (queue '{DISAGREEMENTS_QUEUE}');")
    lines.append("the objects are already in the sink of their pixels")
    return lines


def _wrong_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    run, totals = found["run"] or found["latest_run"], found["totals"]
    if run is not None and not run.get("complete", True):
        failed = run["counts"].get("failed", 0)
        lines.append(
            f"run {run['run_id']} is incomplete, {failed:,} failed: run the same command again"
        )
        for one in run.get("failures", ())[:MAX_FAILURES]:
            lines.append(f"  {one['object_key']} at {one['stage']}: {one['reason']}")
    if run is not None:
        lines += [line.strip() for line in unmet_lines(run)[:MAX_UNMET]]
    for row in found["quarantine"][:MAX_REASONS]:
        lines.append(
            f"{row['images']:,} quarantined, {row['reason']}: {row['meaning']}; {row['remedy']}"
        )
    if rest := sum(row["images"] for row in found["quarantine"][MAX_REASONS:]):
        lines.append(f"{rest:,} quarantined for other reasons")
    if totals["conflicting_uids"]:
        lines.append(
            f"{formats.conflicts_text(totals)}: all are kept; ask the sender which is right"
        )
    if found["dead_letters"]:
        lines.append(f"{formats.plural(found['dead_letters'], 'dead letter')} in dead_letters/")
    for one in found["drift"]["quantities"]:
        if one["reading"] in ("moderate", "large"):
            lines.append(f"{one['reading']} drift of {one['name']}: PSI {one['psi']:.2f}")
    return lines


def _values(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return values with their numbers of images, most frequent first; the others are summed."""
    listed = [row for row in rows if not row["is_rest"]][:MAX_TEXT_VALUES]
    rest = sum(row["images"] for row in rows) - sum(row["images"] for row in listed)
    texts = [f"{row['images']:,} {_printable(row['value']) or 'unknown'}" for row in listed]
    return ", ".join([*texts, f"{rest:,} more"] if rest else texts)


def _printable(text: str) -> str:
    """Return a value of a header without control characters, which a mail program may interpret."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
