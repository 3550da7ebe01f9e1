"""Change a lake in processes that are killed: `python -m tests.lake.published_writers LAKE STEP...`.

Each process appends a row, decides another one again, and compacts; the one of a step is killed at it.
Prints the steps that were reached.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from dataclasses import replace

import deltalake.transaction  # noqa: F401, before the forks
import pyiceberg.catalog.sql
import pyiceberg.io.pyarrow  # noqa: F401

from tests.lake.rows import append_rows, index_row
from tests.sigkill import run_killed
from transforms.lake.append import log_ends
from transforms.lake.compaction import compact
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.published_tables import keep_in_step
from transforms.lake.schema import IndexRow
from transforms.lake.supersede import current_rows, finish_supersedes, supersede

LAST_DAY = "2999-01-01"


def row_of(number: int) -> IndexRow:
    """Return the row that a step appends."""
    return index_row(
        f"/later/{number}.dcm",
        hashlib.sha256(bytes([number])).hexdigest(),
        sop_instance_uid=f"1.8.{number}",
        series_instance_uid=f"1.9.{number}",
        study_instance_uid=f"1.10.{number}",
    )


def change(layout: Layout, number: int) -> None:
    """Append a row, decide the first one again, and compact."""
    open_lake(layout)
    finish_supersedes(layout)
    append_rows(layout, row_of(number))
    keep_in_step(layout)
    decided = row_of(0)
    if current_rows(layout, [decided]):
        label = "review" if number % 2 else "spine"
        later = replace(decided, destination=label, run_id=f"run{number}", model_id=f"m{number}")
        supersede(layout, [later], f"run{number}")
    if log_ends(layout):
        compact(layout, LAST_DAY)


if __name__ == "__main__":
    for step in map(int, sys.argv[2:]):
        if run_killed(functools.partial(change, Layout(sys.argv[1]), step), step):
            print(step)
    change(Layout(sys.argv[1]), 0)
