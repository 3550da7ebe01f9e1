"""Writes docs/index.md and docs/metrics.md from the tables in the code; a test keeps them equal."""

from __future__ import annotations

from pathlib import Path

from transforms.core.reasons import MEANINGS, Reason, Stage, Status
from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA
from transforms.metrics import (
    BEAM_DISTRIBUTIONS,
    COUNTER_DESCRIPTIONS,
    DISTRIBUTION_DESCRIPTIONS,
    NAMESPACE,
    DistributionName,
)

TARGET = Path(__file__).parent / "index.md"
METRICS_TARGET = Path(__file__).parent / "metrics.md"

REASONS_OF = {
    "routed": (Reason.CONFIDENT, Reason.SETTLED_BY_AGE, Reason.AGE_CONTRADICTED),
    "review": (
        Reason.LOW_CONFIDENCE,
        Reason.OUT_OF_DISTRIBUTION,
        Reason.TOO_SMALL,
        Reason.AGE_CONTRADICTED,
    ),
    "not_xray": (Reason.SOP_CLASS, Reason.MODALITY, Reason.IMAGE_TYPE),
    "duplicate": (Reason.SAME_CONTENT,),
    "quarantined": tuple(
        r
        for r in Reason
        if list(Reason).index(Reason.EMPTY)
        <= list(Reason).index(r)
        <= list(Reason).index(Reason.INFERENCE_FAILED)
    ),
}


def text() -> str:
    """Return the page."""
    lines = [
        "# The index",
        "",
        "<!-- Written by `make docs` from transforms/lake/schema.py and transforms/core/reasons.py. -->",
        "",
        "One row for each source object, in `LAKE/index/ingest_date=YYYY-MM-DD/*.parquet`",
        "(zstd, hive partitions). The descriptions below stand in the Parquet schema too.",
        "",
        "## Columns",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
    ]
    for name, description in COLUMNS.items():
        kind = "partition" if name == PARTITION else str(SCHEMA.field(name).type)
        lines.append(f"| `{name}` | {kind} | {description} |")
    lines += [
        "",
        "## Status and reason",
        "",
        f"`status` is one of {', '.join(Status)}; `stage` one of {', '.join(Stage)}.",
        "",
        "| status | reason | meaning | what to do |",
        "|---|---|---|---|",
    ]
    said = {reason for reasons in REASONS_OF.values() for reason in reasons}
    for status, reasons in REASONS_OF.items():
        for reason in reasons:
            meaning = MEANINGS[reason]
            lines.append(f"| {status} | `{reason}` | {meaning.text} | {meaning.remedy} |")
    lines += [
        "",
        "## Failures",
        "",
        "An object that fails has no row: the run is incomplete, exits with 1, and the same command",
        "run again completes it. The summary lists the first hundred by `object_key`.",
        "",
        "| reason | meaning | what to do |",
        "|---|---|---|",
    ]
    for reason in Reason:
        if reason not in said:
            lines.append(f"| `{reason}` | {MEANINGS[reason].text} | {MEANINGS[reason].remedy} |")
    return "\n".join(lines) + "\n"


def metrics_text() -> str:
    """Return the page on metrics."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `make docs` from transforms/metrics.py and transforms/core/reasons.py. -->",
        "",
        "What the engine counts and measures while a run goes on, shown at its end, given by `--json`",
        "under `metrics` and kept in `LAKE/runs/metrics/<run_id>.json`. Engines count again what they",
        "run again, so these may say more than there was, and an engine may give none: the completeness",
        "equation never rests on them. No value or name comes from an object's header or URI.",
        "[engines.md](engines.md#metrics) says where engines show them.",
        "",
        "## Distributions",
        "",
        "Each has count, mean, min, max and sum. Those recorded here in `ms` are whole numbers; what is",
        "below one is carried on to the next value, so that sums and means are right. It is elapsed",
        "time, and several objects are on their way at once: sums can exceed the run's duration.",
        "",
        "| name | unit | each value says | one for each | shown by engines as |",
        "|---|---|---|---|---|",
    ]
    for name in DistributionName:
        measure, own = DISTRIBUTION_DESCRIPTIONS[name], BEAM_DISTRIBUTIONS.get(name)
        shown = f"`{own.namespace}` `{own.name}`" if own else f"`{NAMESPACE}` `{name}`"
        lines.append(f"| `{name}` | {name.unit} | {measure.text} | {measure.each} | {shown} |")
    lines += [
        "",
        f"Those in the namespace `{NAMESPACE}` are recorded here; the others by Beam's RunInference, in",
        "the unit that its name says.",
        "",
        "## Counters",
        "",
        f"All in the namespace `{NAMESPACE}`. One that never moved is absent.",
        "",
        "| name | counts |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {what} |" for name, what in COUNTER_DESCRIPTIONS.items()]
    lines += [f"| `status_{status}` | rows written with this status |" for status in Status]
    lines += [
        "| `reason_<reason>` | rows written for this reason, or objects that failed for it; all "
        "reasons stand in [index.md](index.md#status-and-reason) |",
    ]
    return "\n".join(lines) + "\n"


PAGES = {TARGET: text, METRICS_TARGET: metrics_text}


if __name__ == "__main__":
    for page, written in PAGES.items():
        page.write_text(written())
