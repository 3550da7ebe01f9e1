"""Check that a lake has no trace of what was erased, and that the reports of erasures are intact.

Identifiers are no longer known: each UID and digest in the lake is hashed, and compared with the
tombstones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from transforms.lake.erase import unfinished_erasures
from transforms.lake.erasure_report import check_reports
from transforms.lake.layout import Layout
from transforms.lake.tombstones import LostKey, read_tombstones
from transforms.lake.traces import is_hashed_in, search_lake
from transforms.lake.verify_report import VerifyReport, Violation


@dataclass(frozen=True)
class ErasedRows:
    """The rows that were erased.

    Attributes:
        rows_of_runs: their number by run id and status.
        unfinished_runs: ids of runs of which an unfinished erasure removes rows.
    """

    rows_of_runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    unfinished_runs: frozenset[str] = frozenset()


def check_forgotten(layout: Layout, report: VerifyReport, *, deep: bool) -> ErasedRows:
    """Add violations to a report; a lake from which nothing was erased is not searched.

    Args:
        layout: the lake and its sinks.
        report: to add to.
        deep: whether to search every byte of stored objects too.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        tombstones = read_tombstones(layout)
    except LostKey:
        report.add(
            [Violation("tombstones without their key", "", layout.relative(layout.forgotten))]
        )
        return ErasedRows()
    unfinished = list(unfinished_erasures(layout))
    runs = frozenset(run for intent in unfinished for run in intent.rows_of_runs)
    if tombstones.key is None:
        return ErasedRows(unfinished_runs=runs)
    rows, report.erasures, violations = check_reports(layout, tombstones.key)
    report.add(violations)
    if not unfinished:  # otherwise traces are expected
        searched = search_lake(layout, is_hashed_in(tombstones), deep=deep)
        report.add(Violation("trace of an erased object", "", uri) for uri in searched.traces)
    return ErasedRows(rows, runs)
