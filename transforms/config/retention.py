"""How long objects are kept in a lake, by sink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DAY_US: Final = 86_400_000_000


@dataclass(frozen=True)
class Retention:
    """Rules of retention.

    Attributes:
        days: since the last ingestion, after which objects are erased, by sink; others are kept.
        legal_holds: path or URI of a list of what is not erased, or None.
    """

    days: Mapping[str, int] = field(default_factory=dict)
    legal_holds: str | None = None

    def before_us(self, now_us: int) -> dict[str, int]:
        """Return the time before which objects were ingested that are erased now, by sink.

        Args:
            now_us: the current time, microseconds since 1970.
        """
        return {sink: now_us - days * DAY_US for sink, days in self.days.items()}
