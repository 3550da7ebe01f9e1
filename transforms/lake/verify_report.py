"""The report of `verify`: violations of the delivery contract, and what a lake has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Final

MAX_LISTED: Final = 1000
"""Maximum number of violations of a kind that are listed; the others are only counted."""


@dataclass(frozen=True)
class Violation:
    """A violation of the delivery contract.

    Attributes:
        kind: description of the violation.
        object_key: key of the source object, or "".
        where: URI of a file of the lake, or ""; never a source URI.
    """

    kind: str
    object_key: str
    where: str


@dataclass
class VerifyReport:
    """Result of `verify_lake`.

    Attributes:
        format: lake format.
        rows: number of rows in the index.
        superseded_rows: number of rows in the history.
        objects: number of stored objects.
        derived: number of rows about derived objects, by status.
        labels: number of answers of reviewers, also those that were taken back.
        runs: number of complete runs.
        incomplete_runs: number of incomplete runs since the last complete one.
        erasures: number of erasures whose reports the lake has.
        journal_files: number of journal files of a running or interrupted run; the next run recovers
            them.
        temporary_files: number of temporary files of a running or interrupted run; the next run removes
            them.
        conflicts: SOP Instance UIDs with different contents; not a violation.
        violations: violations of the contract, up to `MAX_LISTED` of each kind.
        counts: number of violations by kind.
    """

    format: int = 1
    rows: int = 0
    superseded_rows: int = 0
    objects: int = 0
    derived: Counter[str] = field(default_factory=Counter)
    labels: int = 0
    runs: int = 0
    incomplete_runs: int = 0
    erasures: int = 0
    journal_files: int = 0
    temporary_files: int = 0
    conflicts: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, violations: Iterable[Violation]) -> None:
        """Count violations, and list them if there are few of their kind."""
        for violation in violations:
            self.counts[violation.kind] += 1
            if self.counts[violation.kind] <= MAX_LISTED:
                self.violations.append(violation)

    @property
    def number(self) -> int:
        """Number of violations."""
        return sum(self.counts.values())

    @property
    def holds(self) -> bool:
        """Whether the contract holds."""
        return not self.violations

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({"holds": self.holds, **asdict(self)}, indent=2)
