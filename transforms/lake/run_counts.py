"""The counts of a run, computed from the index: engines count retried work again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.object_ref import Failure
from transforms.core.reasons import FORGOTTEN, Reason, Stage, Status, terms_of
from transforms.lake.index_files import (
    list_history,
    list_index,
    open_index_file,
    read_batches,
    read_index,
    read_matching,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import RUN_ID_SEPARATOR, VersionKey
from transforms.lake.tombstones import forgotten_by_run

MAX_FAILURES_LISTED: Final = 100
"""Maximum number of failures in a summary."""
COUNTED_COLUMNS: Final = (
    "run_id", "object_key", "status", "stage", "reason", "destination", "conflict", "source_size_bytes",
    "header_agrees",
)  # fmt: skip
_RUN_COLUMNS: Final = (*COUNTED_COLUMNS, "source_uri", "source_version")


@dataclass(frozen=True)
class RunCounts:
    """Counts of a run or of a part of it; addition is associative and commutative.

    Attributes:
        counts: number of objects by name: discovered, failed, recovered, restored (missing in
            their sinks, and placed again) and the terms of the equation.
        destinations: number of rows by sink, without duplicates.
        reasons: number of rows by (status, stage, reason).
        conflicts: number of rows with a conflict.
        size_bytes: total size of the source objects with a row.
        failures: up to `MAX_FAILURES_LISTED` failures, sorted.
        segments: URIs of the segments that the run has written.
        orphans: URIs of objects that the run has placed and that no row references.
        skipped: number of names that the inputs match and that are no objects of the run, by `Skip`.
        headers: number of routed images whose header label agrees with the decision ("agree") or not
            ("disagree"), without duplicates.
    """

    counts: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    conflicts: int = 0
    size_bytes: int = 0
    failures: tuple[Failure, ...] = ()
    segments: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    headers: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_skipped(cls, why: str, number: int = 1) -> RunCounts:
        """Return the counts of names that are skipped for one reason."""
        return cls(skipped=Counter({why: number}))

    @classmethod
    def of_count(cls, name: str, number: int) -> RunCounts:
        """Return counts of which only one is not zero."""
        return cls(counts=Counter({name: number}))

    @classmethod
    def of_failure(cls, failure: Failure) -> RunCounts:
        """Return the counts of one failure."""
        return cls(counts=Counter({"failed": 1}), failures=(failure,))

    @classmethod
    def of_table(cls, rows: pa.Table) -> RunCounts:
        """Return the counts of index rows, which have at least `COUNTED_COLUMNS`."""
        keys = ["status", "stage", "reason", "destination", "header_agrees"]
        groups = rows.group_by(keys).aggregate(
            [("source_size_bytes", "sum"), ("conflict", "sum"), ("run_id", "count")]
        )
        counts: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        reasons: Counter[tuple[str, str, str]] = Counter()
        headers: Counter[str] = Counter()
        conflicts = size = 0
        for group in groups.to_pylist():
            number = group["run_id_count"]
            counts[group["status"]] += number
            reasons[group["status"], group["stage"], group["reason"]] += number
            if group["status"] != Status.DUPLICATE:
                destinations[group["destination"]] += number
                if group["status"] == Status.ROUTED and group["header_agrees"] is not None:
                    headers["agree" if group["header_agrees"] else "disagree"] += number
            conflicts += group["conflict_sum"] or 0
            size += group["source_size_bytes_sum"]
        return cls(counts, destinations, reasons, conflicts, size, headers=headers)

    @classmethod
    def sum(cls, several: Iterable[RunCounts]) -> RunCounts:
        """Return the sum of counts; zero if there are none."""
        counts: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        reasons: Counter[tuple[str, str, str]] = Counter()
        conflicts = size = 0
        failures: list[Failure] = []
        segments: list[str] = []
        orphans: list[str] = []
        skipped: Counter[str] = Counter()
        headers: Counter[str] = Counter()
        for one in several:
            counts.update(one.counts)
            destinations.update(one.destinations)
            reasons.update(one.reasons)
            conflicts += one.conflicts
            size += one.size_bytes
            failures.extend(one.failures)
            segments.extend(one.segments)
            orphans.extend(one.orphans)
            skipped.update(one.skipped)
            headers.update(one.headers)
        failures.sort(key=lambda f: (f.stage, f.reason, f.object_key))
        listed = tuple(failures[:MAX_FAILURES_LISTED])
        uris = tuple(sorted(set(segments))), tuple(sorted(set(orphans)))
        return cls(counts, destinations, reasons, conflicts, size, listed, *uris, skipped, headers)

    @property
    def balanced(self) -> bool:
        """Whether discovered is the sum of the terms; see `core.reasons.terms_of`."""
        return self.counts["discovered"] == sum(terms_of(self.counts).values())

    @property
    def complete(self) -> bool:
        """Whether the equation balances and nothing failed."""
        return self.balanced and not self.counts["failed"]

    @property
    def equation(self) -> str:
        """The completeness equation as text, with the numbers of this run."""
        terms = " + ".join(f"{number} {term}" for term, number in terms_of(self.counts).items())
        sign = "=" if self.balanced else "≠"
        return f"{self.counts['discovered']} discovered {sign} {terms}"


def count_segments(uris: Iterable[str]) -> RunCounts:
    """Return the counts of all rows in index files.

    Raises:
        DamagedFile: an index file cannot be read.
    """
    counts = RunCounts()
    for uri in sorted(set(uris)):
        with open_index_file(uri) as file:
            counts = RunCounts.sum(
                [counts, *map(RunCounts.of_table, read_batches(file, COUNTED_COLUMNS))]
            )
    return counts


def count_run(layout: Layout, run_id: str) -> RunCounts:
    """Return the counts of a batch run that may have superseded rows, as it first wrote each row.

    A row that the run itself superseded, because another row of the run became its first, is also in the
    history; the history has its first state.

    Raises:
        DamagedFile: an index or history file cannot be read.
    """
    wanted = {"run_id": pa.array([run_id])}
    counts = RunCounts()
    replaced: set[VersionKey] = set()
    for uri in list_history(layout):
        for rows in read_matching(uri, (*_RUN_COLUMNS, "superseded_by"), wanted):
            own = rows.filter(pc.equal(rows["superseded_by"], run_id))
            replaced.update(_version_keys(own))
            counts = RunCounts.sum((counts, RunCounts.of_table(own)))
    for uri in list_index(layout):
        for rows in read_matching(uri, _RUN_COLUMNS, wanted):
            if replaced:
                is_first_state = [version not in replaced for version in _version_keys(rows)]
                rows = rows.filter(pa.array(is_first_state, pa.bool_()))
            counts = RunCounts.sum((counts, RunCounts.of_table(rows)))
    return counts


def count_stream(
    layout: Layout, run_id: str, before: Set[str], *, unfinished: Set[str] = frozenset()
) -> RunCounts:
    """Return the counts of a streaming run.

    Args:
        layout: the lake.
        run_id: id of the run.
        before: URIs of the index files that existed before the run, none of which has its rows.
        unfinished: keys of objects that the sources emitted and that had no row when they stopped.

    Raises:
        DamagedFile: an index file cannot be read.
    """

    def read(files: Sequence[str]) -> tuple[RunCounts, set[str]]:
        counts, keys = RunCounts(), set[str]()
        for uri in files:
            if uri in before:
                continue
            for rows in read_matching(uri, COUNTED_COLUMNS, {}):
                own = rows.filter(pc.starts_with(rows["run_id"], run_id + RUN_ID_SEPARATOR))
                counts = RunCounts.sum((counts, RunCounts.of_table(own)))
                keys.update(own["object_key"].to_pylist())
        return counts, keys

    counts, keys = read_index(layout, read)
    missing = unfinished - keys
    forgotten = forgotten_by_run(layout, run_id)
    discovered = sum(counts.counts.values()) + len(missing) + forgotten
    failures = [Failure(key, Stage.INDEX, Reason.NO_ROW, "") for key in missing]
    return RunCounts.sum(
        (
            counts,
            RunCounts.of_count("discovered", discovered),
            RunCounts.of_count(FORGOTTEN, forgotten),
            *map(RunCounts.of_failure, failures),
        )
    )


def _version_keys(rows: pa.Table) -> Iterator[VersionKey]:
    return zip(rows["source_uri"].to_pylist(), rows["source_version"].to_pylist(), strict=True)
