"""What a run came to, added up from its data rather than from metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from transforms.core.object_ref import Failure
from transforms.core.reasons import TERMS, Status
from transforms.lake.schema import IndexRow

MAX_FAILURES_SHOWN: Final = 100


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
    """

    counts: Counter[str] = field(default_factory=Counter)
    destinations: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    conflicts: int = 0
    size_bytes: int = 0
    failures: tuple[Failure, ...] = ()

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
    def sum(cls, tallies: Iterable[RunCounts]) -> RunCounts:
        """Add tallies up; an empty sum is an empty tally."""
        counts: Counter[str] = Counter()
        destinations: Counter[str] = Counter()
        reasons: Counter[tuple[str, str, str]] = Counter()
        conflicts = size = 0
        failures: list[Failure] = []
        for tally in tallies:
            counts.update(tally.counts)
            destinations.update(tally.destinations)
            reasons.update(tally.reasons)
            conflicts += tally.conflicts
            size += tally.size_bytes
            failures.extend(tally.failures)
        failures.sort(key=lambda f: (f.stage, f.reason, f.object_key))
        shown = tuple(failures[:MAX_FAILURES_SHOWN])
        return cls(counts, destinations, reasons, conflicts, size, shown)

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
