"""The run's summary: added up in the graph, written to the lake, shown at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam

from pipeline.metrics_report import metric_lines
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import Failure, format_failure
from transforms.core.reasons import MEANINGS, TERMS, Reason
from transforms.lake.files import exists, put_if_absent, read_bytes
from transforms.lake.layout import SINKS
from transforms.lake.run_counts import RunCounts

MAX_FAILURES_PRINTED = 20


@dataclass
class CountAs(beam.PTransform):  # type: ignore[misc]
    """Elements to one `RunCounts`; engines may write all that enters a Flatten, so count before it."""

    term: str

    def expand(self, elements: beam.PCollection[Any]) -> beam.PCollection[RunCounts]:
        term = self.term
        return (
            elements
            | "Count" >> beam.combiners.Count.Globally()
            | "Tally"
            >> beam.Map(lambda number: RunCounts.of_count(term, number)).with_output_types(Any)
        )


@dataclass
class Summarise(beam.PTransform):  # type: ignore[misc]
    """Adds tallies up and writes `runs/<run_id>.json`; gives back what was written."""

    config: RouteConfig

    def expand(self, tallies: beam.PCollection[RunCounts]) -> beam.PCollection[dict[str, Any]]:
        return (
            tallies
            | "Sum" >> beam.CombineGlobally(_sum)
            | "WriteSummary" >> beam.Map(write_summary, self.config).with_output_types(Any)
        )


def _sum(tallies: Iterable[RunCounts]) -> RunCounts:
    return RunCounts.sum(tallies)


def write_summary(
    tally: RunCounts, config: RouteConfig, *, ended_well: bool = True
) -> dict[str, Any]:
    """Write a run's summary; that of an incomplete run goes to `runs/incomplete/`.

    Args:
        tally: of the run.
        config: of the run.
        ended_well: False for a stream whose job failed: what it had begun nobody knows.
    """
    complete = tally.complete and ended_well
    summary = {**summary_of(tally, config), "complete": complete}
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


def summary_of(tally: RunCounts, config: RouteConfig) -> dict[str, Any]:
    """Return a summary ready for JSON."""
    return {
        "run_id": config.run_id,
        "complete": tally.complete,
        "counts": {
            "discovered": tally.counts["discovered"],
            **{term: tally.counts[term] for term in TERMS},
            "failed": tally.counts["failed"],
            "recovered": tally.counts["recovered"],
            "conflicts": tally.conflicts,
        },
        "equation": tally.equation,
        "destinations": {s: tally.destinations[s] for s in SINKS if tally.destinations[s]},
        "reasons": [
            {"status": status, "stage": stage, "reason": reason, "objects": number}
            for (status, stage, reason), number in sorted(tally.reasons.items())
        ],
        "failures": [
            {k: v for k, v in asdict(failure).items() if v is not None}
            for failure in tally.failures
        ],
        "size_bytes": tally.size_bytes,
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
        lines += ["", f"{summary['counts']['recovered']} rows were taken over from a killed run"]
    if summary["counts"]["conflicts"]:
        lines += [
            "",
            f"{summary['counts']['conflicts']} rows share their SOP Instance UID with other bytes",
        ]
    if metrics_of := metric_lines(summary.get("metrics", {})):
        lines += ["", *metrics_of]
    return "\n".join(lines)


def failure_lines(summary: dict[str, Any]) -> list[str]:
    """Return what failed, an object a line: its key, the stage, what happened and what to do."""
    shown = summary["failures"][:MAX_FAILURES_PRINTED]
    return [f"  {format_failure(Failure(**failed))}" for failed in shown]
