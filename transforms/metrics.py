"""Names of all counters, and a tally of the same in this process for the live progress line.

The completeness equation never rests on these: engines count again what they run again.
"""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum
from typing import Final

from apache_beam.metrics import Metrics

NAMESPACE: Final = "dicom_router"


class Count(StrEnum):
    """Counters, in objects unless the name says otherwise."""

    DISCOVERED = "discovered"
    UNCHANGED = "unchanged"
    RECOVERED = "recovered"
    BYTES_READ = "bytes_read"
    EXAMINED = "examined"
    PLACED = "placed"
    FAILED = "failed"


class Tally:
    """Counts of this process, safe between threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, number: int) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += number

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts."""
        with self._lock:
            return dict(self._counts)

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._counts.clear()


TALLY: Final = Tally()
_COUNTERS: Final = {name: Metrics.counter(NAMESPACE, name) for name in Count}


def count(name: Count, number: int = 1) -> None:
    """Count in Beam's metrics and in this process's tally."""
    _COUNTERS[name].inc(number)
    TALLY.add(name, number)
