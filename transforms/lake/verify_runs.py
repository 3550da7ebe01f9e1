"""Check the summaries of runs: their equation, and that the index has the rows that they count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set

import duckdb

from transforms.core.reasons import terms_of
from transforms.lake import verify_queries as queries
from transforms.lake.files import read_json
from transforms.lake.layout import Layout
from transforms.lake.verify_forgotten import ErasedRows
from transforms.lake.verify_report import VerifyReport, Violation
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import is_below


def check_runs(
    db: duckdb.DuckDBPyConnection,
    layout: Layout,
    report: VerifyReport,
    summaries: Sequence[ObjectInfo],
    erased: ErasedRows,
) -> None:
    """Add the violations of all summaries of a lake to a report.

    Args:
        db: the database of `verify`, with all rows.
        layout: the lake.
        report: to add to.
        summaries: the summary files, listed before the rows were read.
        erased: rows that were erased since.
    """
    rows_of_runs = Counter(
        {
            (run_id, status): number
            for run_id, status, number in db.execute(queries.ROWS_OF_RUNS).fetchall()
        }
    )
    rows_of_runs.update(erased.rows_of_runs)
    complete: list[str] = []
    incomplete: list[str] = []
    for summary in summaries:
        if is_below(summary.uri, layout.metrics):
            continue
        run_id = summary.uri.rpartition("/")[2].removesuffix(".json")
        if is_below(summary.uri, layout.incomplete_runs):
            incomplete.append(run_id)
            continue
        complete.append(run_id)
        report.add(_run_violations(summary, rows_of_runs, erased.unfinished_runs))
    report.runs = len(complete)
    last = max(complete, default="")
    report.incomplete_runs = sum(run_id > last for run_id in incomplete)
    if not complete and not incomplete and not report.journal_files and report.format == 1:
        report.add([Violation("no run summary", "", layout.relative(layout.runs))])


def _run_violations(
    summary: ObjectInfo, rows_of_runs: Counter[tuple[str, str]], unfinished: Set[str]
) -> Iterator[Violation]:
    """Yield the violations in the summary of a complete run.

    Args:
        summary: the summary file.
        rows_of_runs: number of rows by run id and status, with those that were erased.
        unfinished: ids of runs whose rows are being erased.
    """
    try:
        content = read_json(summary.uri)
        run_id, counts = content["run_id"], content["counts"]
        balanced = counts["discovered"] == sum(terms_of(counts).values())
        indexed = run_id in unfinished or all(
            rows_of_runs.get((run_id, s), 0) == counts[s] for s in queries.STATUSES
        )
    except (OSError, ValueError, KeyError, TypeError):
        yield Violation("unreadable run summary", "", summary.uri)
        return
    if not balanced:
        yield Violation("equation does not balance", "", summary.uri)
    if not indexed:
        yield Violation("rows of a run in the index differ from its summary", "", summary.uri)
