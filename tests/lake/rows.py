"""Rows and lakes made without a run, for tests of the index alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from transforms.core.object_ref import object_key
from transforms.core.reasons import BY_MODEL, Reason, Stage, Status
from transforms.lake import append as append_module
from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.erase import Erased, apply_erasure, plan_erasures
from transforms.lake.erasure_report import Order
from transforms.lake.erasure_selection import Selection
from transforms.lake.existing_rows import ExistingRow
from transforms.lake.files import put_bytes
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import write_journal
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.schema import IndexRow

ONE = LogShard(1, 0)
FINGERPRINT = "decided"
STUDY, SERIES = "1.2", "1.3"


def index_row(source: str, sha256: str = "a" * 64, **columns: Any) -> IndexRow:
    """Return a row of a placed image, routed to spine unless the columns say otherwise."""
    destination = str(columns.get("destination", "spine"))
    uid = str(columns.get("sop_instance_uid", "1.2.3"))
    name = Layout("").object_uri(destination, STUDY, SERIES, uid, sha256).lstrip("/")
    row = IndexRow(
        run_id="r",
        object_key=object_key(source),
        ingest_date="2026-01-01",
        ingested_at=0,
        router_version="0",
        source_uri=source,
        source_version="1-1",
        source_size_bytes=1,
        content_sha256=sha256,
        status=Status.ROUTED,
        stage=Stage.DECIDE,
        reason=Reason.CONFIDENT,
        destination=destination,
        object_uri=name,
        conflict=False,
        predicted_label="spine",
        model_id="m1",
        policy_id="p1",
        decided_by=BY_MODEL,
        sop_instance_uid=uid,
        series_instance_uid=SERIES,
        study_instance_uid=STUDY,
    )
    return replace(row, **columns)


def place(
    layout: Layout,
    source: str,
    content: bytes = b"x",
    fingerprint: str = FINGERPRINT,
    **columns: Any,
) -> IndexRow:
    """Write a row to the journal and its object to the lake, as a run that is killed then."""
    sha256 = hashlib.sha256(content).hexdigest()
    row = index_row(source, sha256, source_size_bytes=len(content), **columns)
    target = layout.object_uri(
        str(row.destination), STUDY, SERIES, str(row.sop_instance_uid), sha256
    )
    row = replace(row, object_uri=layout.relative(target))
    write_journal(layout, [row], fingerprint)
    put_bytes(target, content, scratch=layout.scratch())
    return row


@contextmanager
def replica_of(layout: Layout) -> Iterator[IndexReplica]:
    """Yield a replica of the index that is removed afterwards."""
    replica = IndexReplica(layout)
    try:
        yield replica
    finally:
        replica.close()


def append_rows(layout: Layout, *rows: IndexRow, log: LogShard = ONE) -> int:
    """Append rows to a log; return how many the index lacked."""
    with replica_of(layout) as replica:
        return len(append(layout, replica, log, rows).rows)


def rows_in(layout: Layout) -> list[dict[str, Any]]:
    """Return the rows that a plain Parquet reader finds, in order of source."""
    data = ds.dataset(Path(layout.index), format="parquet", partitioning="hive")
    rows: list[dict[str, Any]] = data.to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["source_uri"], row["source_version"]))


def history(root: str | Path) -> list[dict[str, Any]]:
    """Return the superseded rows of a lake as a plain reader finds them."""
    folder = Path(root) / "history"
    if not folder.exists():
        return []
    data = ds.dataset(folder, format="parquet", partitioning="hive")
    rows: list[dict[str, Any]] = data.to_table().to_pylist()
    return rows


def sources_in(layout: Layout) -> list[str]:
    """Return the sources of the rows that a plain Parquet reader finds."""
    return [row["source_uri"] for row in rows_in(layout)]


def existing(row: IndexRow) -> ExistingRow:
    """Return what the index has of a row."""
    return ExistingRow(
        source_uri=row.source_uri,
        source_version=row.source_version,
        model_id=row.model_id,
        status=str(row.status),
        destination=str(row.destination),
        object_uri=str(row.object_uri),
        sop_instance_uid=row.sop_instance_uid,
        content_sha256=str(row.content_sha256),
    )


def new_lake(root: Path, sinks: dict[str, str] | None = None) -> Layout:
    """Return a lake of the present format without rows."""
    layout = Layout(str(root), sinks or {})
    write_marker(layout)
    return layout


def erase(layout: Layout, *contents: str) -> list[Erased]:
    """Erase contents from a lake, as `forget --apply` does."""
    order = Order("forget", "order 7", "2026-01-01T00:00:00Z", "0", {})
    plans = plan_erasures(layout, Selection(), contents)
    return [apply_erasure(layout, plan, order) for plan in plans]


def lake_of(root: Path, rows: Iterable[IndexRow]) -> Layout:
    """Return a lake with these rows, in one log."""
    layout = new_lake(root)
    append_rows(layout, *rows)
    return layout


def set_clock(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    """Let the writer's clock show a day."""
    monkeypatch.setattr(append_module, "today", lambda: day)
