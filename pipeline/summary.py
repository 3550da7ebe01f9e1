"""Write, read and format the summary of a run."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.metrics_report import metric_lines
from pipeline.summaries import ROUTE, time_line, utc_text
from transforms.config.expectations import Checked, check_counts, check_drift
from transforms.config.route_config import RouteConfig
from transforms.core.labels import sink_order
from transforms.core.object_ref import Failure, format_failure
from transforms.core.reasons import FORGOTTEN, MEANINGS, UNCHANGED, Reason, terms_of
from transforms.lake.derived import DERIVED_STATUSES
from transforms.lake.files import exists, put_if_absent, read_json
from transforms.lake.run_counts import RunCounts
from transforms.storage.selection import SKIP_MEANINGS, Skip

MAX_FAILURES_PRINTED = 20


def write_summary(
    counts: RunCounts,
    config: RouteConfig,
    *,
    job_succeeded: bool = True,
    kind: str = ROUTE,
    derived: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write and return a run's summary; that of an incomplete run is in `runs/incomplete/`.

    Args:
        counts: counts of the run.
        config: configuration of the run.
        job_succeeded: False for a stream whose job failed, so that its objects in flight are unknown.
        kind: kind of the run; only objects that arrived, those of `ROUTE`, are compared with the
            expectations of the policy.
        derived: number of derived objects by status, if the policy demands some.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    complete = counts.complete and job_succeeded
    summary = {**summary_of(counts, config), "complete": complete, "kind": kind}
    if config.policy.derive:
        summary["derived"] = {one: (derived or {}).get(one, 0) for one in DERIVED_STATUSES}
    checked = _check(counts, config) if complete and kind == ROUTE else []
    summary["expectations"] = [one.to_json() for one in checked]
    target = config.layout.run_summary(config.run_id, complete=complete)
    data = (json.dumps(summary, indent=2) + "\n").encode()
    put_if_absent(target, data, scratch=config.layout.scratch(), file_mode=config.layout.file_mode)
    return summary


def _check(counts: RunCounts, config: RouteConfig) -> list[Checked]:
    """Return the expectations of the policy, and whether a complete run meets them."""
    expected = config.policy.expect
    checked = check_counts(expected, counts, config.layout.root)
    started = time.strftime("%Y-%m-%d", time.gmtime(config.started_at))
    drift = check_drift(expected.drift, config.layout, config.run_id, started)
    return checked if drift is None else [*checked, drift]


def read_summary(config: RouteConfig) -> dict[str, Any] | None:
    """Return the summary that a run has written, or None."""
    for complete in (True, False):
        uri = config.layout.run_summary(config.run_id, complete=complete)
        if exists(uri):
            found: dict[str, Any] = read_json(uri)
            return found
    return None


def summary_of(counts: RunCounts, config: RouteConfig) -> dict[str, Any]:
    """Return the content of a summary, ready for JSON."""
    finished = time.time()
    seconds = max(0.0, finished - config.started_at)
    new = counts.counts["discovered"] - counts.counts[UNCHANGED] - counts.counts[FORGOTTEN]
    return {
        "run_id": config.run_id,
        "complete": counts.complete,
        "counts": {
            "discovered": counts.counts["discovered"],
            **terms_of(counts.counts),
            "failed": counts.counts["failed"],
            "recovered": counts.counts["recovered"],
            "restored": counts.counts["restored"],
            "conflicts": counts.conflicts,
        },
        "equation": counts.equation,
        "destinations": {
            s: counts.destinations[s]
            for s in sorted(counts.destinations, key=sink_order)
            if counts.destinations[s]
        },
        "reasons": [
            {"status": status, "stage": stage, "reason": reason, "objects": number}
            for (status, stage, reason), number in sorted(counts.reasons.items())
        ],
        "failures": [
            {k: v for k, v in asdict(failure).items() if v is not None}
            for failure in counts.failures
        ],
        "skipped": dict(sorted(counts.skipped.items())),
        "size_bytes": counts.size_bytes,
        "headers": {name: counts.headers[name] for name in ("agree", "disagree")},
        "inputs": len(config.inputs),
        "started_at": utc_text(config.started_at),
        "finished_at": utc_text(finished),
        "duration_s": round(seconds, 1),
        "objects_per_s": round(new / seconds, 2) if seconds else None,
        "bytes_per_s": round(counts.size_bytes / seconds) if seconds else None,
        "host": config.host,
        "router_version": config.router_version,
        "model_id": config.model_id,
        "header_reliability": config.policy.header_reliability.summary(config.policy.label_set),
        "options": config.public(),
    }


def render(summary: dict[str, Any], lake: str) -> str:
    """Return a summary as text for the terminal."""
    lines = ["", f"Lake {lake}, run {summary['run_id']}", time_line(summary), ""]
    for sink, number in summary["destinations"].items():
        lines.append(f"  {sink:<16}{number:>9}")
    lines += ["", summary["equation"]]
    listed = [r for r in summary["reasons"] if r["status"] in ("quarantined", "review", "not_xray")]
    if listed:
        lines += ["", f"  {'objects':>7}  why"]
    for entry in listed:
        meaning = MEANINGS[Reason(entry["reason"])]
        why = f"{entry['status']} at {entry['stage']}, {entry['reason']}: {meaning.text}"
        lines.append(f"  {entry['objects']:>7}  {why}")
    if skipped := summary["skipped"]:
        lines += ["", f"  {'skipped':>7}  why"]
        lines += [f"  {n:>7}  {why}: {SKIP_MEANINGS[Skip(why)]}" for why, n in skipped.items()]
    if summary["counts"]["recovered"]:
        lines += ["", f"{summary['counts']['recovered']} rows recovered from an interrupted run"]
    if summary["counts"]["restored"]:
        lines += [
            "",
            f"{summary['counts']['restored']} objects were missing in their sinks and restored",
        ]
    if summary["counts"]["conflicts"]:
        lines += [
            "",
            f"{summary['counts']['conflicts']} objects have SOP Instance UIDs with different contents",
        ]
    if derived := summary.get("derived"):
        shown = ", ".join(f"{number} {status}" for status, number in derived.items())
        lines += ["", f"derived objects: {shown}"]
    if metrics := metric_lines(summary.get("metrics", {})):
        lines += ["", *metrics]
    if found := attention_lines(summary, lake):
        lines += ["", *found]
    return "\n".join(lines)


def attention_lines(summary: dict[str, Any], lake: str) -> list[str]:
    """Return what a run leaves for people, and the commands that show it; empty if it leaves nothing."""
    wrong, waiting = summary["headers"]["disagree"], summary["counts"]["review"]
    if not wrong and not waiting:
        return []
    root = shlex.quote(lake)
    report = f"dicom-router report {root} --run {summary['run_id']}"
    return [
        f"headers that name another region than the pixels show: {wrong}, images in review: {waiting}",
        f"see them: {report}" + (f"; dicom-router review {root}" if waiting else ""),
    ]


def failure_lines(summary: dict[str, Any]) -> list[str]:
    """Return one line per failure, up to `MAX_FAILURES_PRINTED`; see `format_failure`."""
    shown = summary["failures"][:MAX_FAILURES_PRINTED]
    return [f"  {format_failure(Failure(**failed))}" for failed in shown]
