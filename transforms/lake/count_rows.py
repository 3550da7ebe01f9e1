"""What a run came to, reckoned from the index: engines count again what they run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.object_ref import Failure
from transforms.core.reasons import Reason, Stage, Status
from transforms.lake.index_files import list_index, readable
from transforms.lake.layout import Layout
from transforms.lake.run_counts import RunCounts
from transforms.lake.schema import ROW_GROUP_ROWS, WINDOW_MARK

COLUMNS: Final = (
    "run_id", "object_key", "status", "stage", "reason", "destination", "conflict", "source_size_bytes",
)  # fmt: skip


def tally_of_run(layout: Layout, run_id: str, since: str, *, left: Set[str]) -> RunCounts:
    """Return the tally of a stream's run.

    Args:
        layout: the lake.
        run_id: of the run.
        since: first partition that it may have written to, YYYY-MM-DD.
        left: keys of objects that its sources gave out and that had no row when they stopped.
    """
    tally = RunCounts()
    late = set(left)
    for uri in list_index(layout):
        if uri >= layout.partition(since):
            with readable(uri) as file:
                for batch in file.iter_batches(ROW_GROUP_ROWS, columns=list(COLUMNS)):
                    rows = pa.Table.from_batches([batch])
                    mine = rows.filter(pc.starts_with(rows["run_id"], run_id + WINDOW_MARK))
                    tally = RunCounts.sum((tally, _tally(mine)))
                    late -= set(mine["object_key"].to_pylist())
    discovered = sum(tally.counts.values()) + len(late)
    failures = [Failure(key, Stage.INDEX, Reason.NO_ROW, "") for key in late]
    return RunCounts.sum(
        (
            tally,
            RunCounts.of_count("discovered", discovered),
            *map(RunCounts.of_failure, failures),
        )
    )


def _tally(rows: pa.Table) -> RunCounts:
    groups = rows.group_by(["status", "stage", "reason", "destination"]).aggregate(
        [("source_size_bytes", "sum"), ("conflict", "sum"), ("run_id", "count")]
    )
    counts: Counter[str] = Counter()
    destinations: Counter[str] = Counter()
    reasons: Counter[tuple[str, str, str]] = Counter()
    conflicts = size = 0
    for group in groups.to_pylist():
        number = group["run_id_count"]
        counts[group["status"]] += number
        reasons[group["status"], group["stage"], group["reason"]] += number
        if group["status"] != Status.DUPLICATE:
            destinations[group["destination"]] += number
        conflicts += group["conflict_sum"] or 0
        size += group["source_size_bytes_sum"]
    return RunCounts(counts, destinations, reasons, conflicts, size)
