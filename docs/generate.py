"""Writes docs/index.md from the tables in the code; a test keeps the two equal."""

from __future__ import annotations

from pathlib import Path

from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA
from transforms.reasons import MEANINGS, Reason, Stage, Status

TARGET = Path(__file__).parent / "index.md"

REASONS_OF = {
    "routed": (Reason.CONFIDENT, Reason.SETTLED_BY_AGE),
    "review": (Reason.LOW_CONFIDENCE, Reason.OUT_OF_DISTRIBUTION, Reason.TOO_SMALL),
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
        "<!-- Written by `make docs` from transforms/lake/schema.py and transforms/reasons.py. -->",
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


if __name__ == "__main__":
    TARGET.write_text(text())
