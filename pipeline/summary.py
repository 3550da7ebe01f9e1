"""The summary of a run: written to the lake, shown at the end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from pipeline.metrics_report import metric_lines
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import Failure, format_failure
from transforms.core.reasons import MEANINGS, TERMS, Reason
from transforms.lake.files import exists, put_if_absent, read_bytes
from transforms.lake.layout import SINKS
from transforms.lake.run_counts import RunCounts

MAX_FAILURES_PRINTED = 20


def write_summary(
    counts: RunCounts, config: RouteConfig, *, ended_well: bool = True
) -> dict[str, Any]:
    """Write a run's summary; that of an incomplete run goes to `runs/incomplete/`.

    Args:
        counts: of the run.
        config: of the run.
        ended_well: False for a stream whose job failed: what was in flight is unknown.
    """
    complete = counts.complete and ended_well
    summary = {**summary_of(counts, config), "complete": complete}
    target = config.layout.run_summary(config.run_id, complete=complete)
    data = (json.dumps(summary, indent=2) + "\n").encode()
    put_if_absent(target, data, scratch=config.layout.scratch())
    return summary


def read_summary(config: RouteConfig) -> dict[str, Any] | None:
    """Return the summary that this run wrote, or None where it wrote none."""
    for complete in (True, False):
        uri = config.layout.run_summary(config.run_id, complete=complete)
        if exists(uri):
            found: dict[str, Any] = json.loads(read_bytes(uri))
            return found
    return None


def summary_of(counts: RunCounts, config: RouteConfig) -> dict[str, Any]:
    """Return a summary ready for JSON."""
    return {
        "run_id": config.run_id,
        "complete": counts.complete,
        "counts": {
            "discovered": counts.counts["discovered"],
            **{term: counts.counts[term] for term in TERMS},
            "failed": counts.counts["failed"],
            "recovered": counts.counts["recovered"],
            "conflicts": counts.conflicts,
        },
        "equation": counts.equation,
        "destinations": {s: counts.destinations[s] for s in SINKS if counts.destinations[s]},
        "reasons": [
            {"status": status, "stage": stage, "reason": reason, "objects": number}
            for (status, stage, reason), number in sorted(counts.reasons.items())
        ],
        "failures": [
            {k: v for k, v in asdict(failure).items() if v is not None}
            for failure in counts.failures
        ],
        "size_bytes": counts.size_bytes,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "router_version": config.router_version,
        "model_id": config.model_id,
        "options": config.public(),
    }


def render(summary: dict[str, Any], lake: str) -> str:
    """Return a summary as a person reads it at the end of a run."""
    lines = ["", f"Lake {lake}, run {summary['run_id']}", ""]
    for sink, number in summary["destinations"].items():
        lines.append(f"  {sink:<16}{number:>9}")
    lines += ["", summary["equation"]]
    notable = [
        r for r in summary["reasons"] if r["status"] in ("quarantined", "review", "not_xray")
    ]
    if notable:
        lines += ["", f"  {'objects':>7}  why"]
    for entry in notable:
        meaning = MEANINGS[Reason(entry["reason"])]
        why = f"{entry['status']} at {entry['stage']}, {entry['reason']}: {meaning.text}"
        lines.append(f"  {entry['objects']:>7}  {why}")
    if summary["counts"]["recovered"]:
        lines += ["", f"{summary['counts']['recovered']} rows recovered from an interrupted run"]
    if summary["counts"]["conflicts"]:
        lines += [
            "",
            f"{summary['counts']['conflicts']} objects reuse a SOP Instance UID with different content",
        ]
    if lines_of_metrics := metric_lines(summary.get("metrics", {})):
        lines += ["", *lines_of_metrics]
    return "\n".join(lines)


def failure_lines(summary: dict[str, Any]) -> list[str]:
    """Return a line for each failure: object key, stage, reason and remedy."""
    shown = summary["failures"][:MAX_FAILURES_PRINTED]
    return [f"  {format_failure(Failure(**failed))}" for failed in shown]
