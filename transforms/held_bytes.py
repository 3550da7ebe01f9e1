"""Keeps bytes that were read for decoding at hand for placement, outside the graph.

Objects never travel through the pipeline: on any engine, elements may be pickled between steps. A
step that finds nothing here reads the object again and checks that it is the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

CAPACITY_BYTES: Final = 512 << 20


class HeldBytes:
    """A bounded map from content sha256 to bytes; the oldest leave first. Safe between threads."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity_bytes
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def hold(self, sha256: str, data: bytes) -> None:
        """Keep bytes until they are taken or room is needed."""
        with self._lock:
            if sha256 in self._held or len(data) > self._capacity:
                return
            self._held[sha256] = data
            self._total += len(data)
            while self._total > self._capacity:
                self._total -= len(self._held.popitem(last=False)[1])

    def take(self, sha256: str) -> bytes | None:
        """Return and forget bytes, or None."""
        with self._lock:
            data = self._held.pop(sha256, None)
            self._total -= len(data or b"")
            return data


HELD: Final = HeldBytes()
"""The one of this process."""
