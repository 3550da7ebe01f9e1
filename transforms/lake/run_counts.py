"""The counts of a run, read from the index: engines count again what they run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.object_ref import Failure
from transforms.core.reasons import TERMS, Reason, Stage, Status
from transforms.lake.files import list_files
from transforms.lake.index_files import batches, list_index, matching, read_index, readable
from transforms.lake.layout import Layout
from transforms.lake.schema import SEGMENT_MARK, IndexRow

MAX_FAILURES_SHOWN: Final = 100
COUNTED_COLUMNS: Final = (
    "run_id", "object_key", "status", "stage", "reason", "destination", "conflict", "source_size_bytes",
)  # fmt: skip
_VERSION: Final = ("source_uri", "source_version")


@dataclass(frozen=True)
class RunCounts:
    """Counts that add up in any order.

    Attributes:
        counts: discovered, failed, recovered and each term of the equation, in objects.
        destinations: rows per sink, duplicates left out.
        reasons: rows per (status, stage, reason).
        conflicts: rows with a conflict.
        size_bytes: of all source objects with a row.
        failures: the first of the failures, by object key.
        segments: URIs of what the run has appended to the index.
        orphans: objects that the run has placed and that no row names.
    """

    counts: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    conflicts: int = 0
    size_bytes: int = 0
    failures: tuple[Failure, ...] = ()
    segments: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()

    @classmethod
    def of_count(cls, name: str, number: int) -> RunCounts:
        """Return a tally of one count."""
        return cls(counts=Counter({name: number}))

    @classmethod
    def of_failure(cls, failure: Failure) -> RunCounts:
        """Return a tally of one failure."""
        return cls(counts=Counter({"failed": 1}), failures=(failure,))

    @classmethod
    def of_rows(cls, rows: Iterable[IndexRow]) -> RunCounts:
        """Return a tally of indexed rows."""
        tally = cls()
        conflicts = size = 0
        for row in rows:
            tally.counts[str(row.status)] += 1
            tally.reasons[str(row.status), str(row.stage), str(row.reason)] += 1
            if row.status != Status.DUPLICATE:
                tally.destinations[str(row.destination)] += 1
            conflicts += bool(row.conflict)
            size += row.source_size_bytes
        return cls(tally.counts, tally.destinations, tally.reasons, conflicts, size)

    @classmethod
    def sum(cls, several: Iterable[RunCounts]) -> RunCounts:
        """Add several up; an empty sum is an empty one."""
        counts: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        reasons: Counter[tuple[str, str, str]] = Counter()
        conflicts = size = 0
        failures: list[Failure] = []
        segments: list[str] = []
        orphans: list[str] = []
        for one in several:
            counts.update(one.counts)
            destinations.update(one.destinations)
            reasons.update(one.reasons)
            conflicts += one.conflicts
            size += one.size_bytes
            failures.extend(one.failures)
            segments.extend(one.segments)
            orphans.extend(one.orphans)
        failures.sort(key=lambda f: (f.stage, f.reason, f.object_key))
        shown = tuple(failures[:MAX_FAILURES_SHOWN])
        uris = tuple(sorted(set(segments))), tuple(sorted(set(orphans)))
        return cls(counts, destinations, reasons, conflicts, size, shown, *uris)

    @property
    def balanced(self) -> bool:
        """Whether discovered = routed + review + not_xray + quarantined + duplicate + unchanged."""
        return self.counts["discovered"] == sum(self.counts[term] for term in TERMS)

    @property
    def complete(self) -> bool:
        """Whether the equation balances and nothing failed."""
        return self.balanced and not self.counts["failed"]

    @property
    def equation(self) -> str:
        """The completeness equation in figures."""
        terms = " + ".join(f"{self.counts[term]} {term}" for term in TERMS)
        sign = "=" if self.balanced else "≠"
        return f"{self.counts['discovered']} discovered {sign} {terms}"


def count_segments(uris: Iterable[str]) -> RunCounts:
    """Return the counts of all rows of some index files.

    Raises:
        DamagedFile: one cannot be read.
    """
    counts = RunCounts()
    for uri in sorted(set(uris)):
        with readable(uri) as file:
            counts = RunCounts.sum([counts, *map(_of_table, batches(file, COUNTED_COLUMNS))])
    return counts


def count_run(layout: Layout, run_id: str) -> RunCounts:
    """Return the counts of a batch run that may have superseded rows, as it first wrote each row.

    A row of the run is in the history, too, where it followed another row that the run superseded.

    Raises:
        DamagedFile: the index or the history cannot be read.
    """
    run = pa.array([run_id])
    counts = RunCounts()
    replaced: set[tuple[str, str]] = set()
    for found in list_files(layout.history, ".parquet"):
        wanted = {"run_id": run}
        for rows in matching(found.uri, (*COUNTED_COLUMNS, *_VERSION, "superseded_by"), wanted):
            own = rows.filter(pc.equal(rows["superseded_by"], run_id))
            replaced.update(_versions_of(own))
            counts = RunCounts.sum((counts, _of_table(own)))
    for uri in list_index(layout):
        for rows in matching(uri, (*COUNTED_COLUMNS, *_VERSION), {"run_id": run}):
            if replaced:
                first = [version not in replaced for version in _versions_of(rows)]
                rows = rows.filter(pa.array(first, pa.bool_()))
            counts = RunCounts.sum((counts, _of_table(rows)))
    return counts


def count_stream(
    layout: Layout, run_id: str, before: Set[str], *, left: Set[str] = frozenset()
) -> RunCounts:
    """Return the counts of a stream's run.

    Args:
        layout: the lake.
        run_id: of the run.
        before: URIs of the index files before the run, which have none of its rows.
        left: keys of objects that its sources emitted and that had no row when they stopped.

    Raises:
        DamagedFile: the index cannot be read.
    """

    def read() -> tuple[RunCounts, set[str]]:
        counts, keys = RunCounts(), set[str]()
        for uri in list_index(layout):
            if uri in before:
                continue
            for rows in matching(uri, COUNTED_COLUMNS, {}):
                own = rows.filter(pc.starts_with(rows["run_id"], run_id + SEGMENT_MARK))
                counts = RunCounts.sum((counts, _of_table(own)))
                keys.update(own["object_key"].to_pylist())
        return counts, keys

    counts, keys = read_index(layout, read)
    missing = left - keys
    discovered = sum(counts.counts.values()) + len(missing)
    failures = [Failure(key, Stage.INDEX, Reason.NO_ROW, "") for key in missing]
    return RunCounts.sum(
        (
            counts,
            RunCounts.of_count("discovered", discovered),
            *map(RunCounts.of_failure, failures),
        )
    )


def _versions_of(rows: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(*(rows[name].to_pylist() for name in _VERSION), strict=True)


def _of_table(rows: pa.Table) -> RunCounts:
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
