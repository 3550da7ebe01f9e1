"""Rows and an audit trail for the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.audit.trail import AuditTrail
from tests.audit.audit_messages import DX, lines, summary_of
from tests.lake.rows import index_row
from transforms.config.audit_options import AuditOptions
from transforms.core.run_id import new_run_id
from transforms.lake.change_decisions import change_decisions, prepare_changes
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow


def row_of(number: int, run_id: str, **columns: Any) -> IndexRow:
    values = {
        "run_id": run_id,
        "sop_instance_uid": f"1.2.3.{number}",
        "sop_class_uid": DX,
        "ingested_at": 1_000_000 * number,
        "study_instance_uid": f"1.9.{number % 2}",
        **columns,
    }
    source = f"/in/SECRET^NAME {number}.dcm"
    return index_row(source, f"{number:064x}", **({"object_uri": source} | values))


def audited(layout: Layout, file: Path, **options: Any) -> AuditTrail:
    return AuditTrail(layout, AuditOptions(audit_file=file, **options), "0.0.1")


def change(layout: Layout, *rows: IndexRow) -> str:
    """Decide rows again, in one run."""
    run_id = new_run_id()
    prepare_changes(layout)
    decided = [replace(row, destination="others") for row in rows]
    assert len(change_decisions(layout, decided, run_id).changed) == len(rows)
    return run_id


def instances(file: Path, event: str = "routed") -> int:
    """Number of objects that messages about an event report."""
    found = map(summary_of, lines(file))
    return sum(one["instances"] for one in found if event in one["types"])
