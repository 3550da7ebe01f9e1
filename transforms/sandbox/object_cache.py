"""Keeps bytes that were read for decoding at hand for placement, outside the graph.

Objects never travel through the pipeline: on any engine, elements may be pickled between steps. A
step that finds nothing here reads the object again and checks that it is the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from transforms.core.shared_bytes import SharedBytes

CAPACITY_BYTES: Final = 1 << 30
"""In memory; what is on a disk does not count."""
CAPACITY_OBJECTS: Final = 256
"""Each holds a file descriptor, of which a process commonly has 1,024."""


class ObjectCache:
    """A bounded map from content sha256 to bytes; the oldest leave first. Safe between threads."""

    def __init__(
        self, capacity_bytes: int = CAPACITY_BYTES, capacity_objects: int = CAPACITY_OBJECTS
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._capacity_objects = capacity_objects
        self._held: OrderedDict[str, SharedBytes] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def put(self, sha256: str, data: SharedBytes) -> None:
        """Take bytes over until they are taken or room is needed; then they are closed."""
        size = _weight(data)
        with self._lock:
            if sha256 in self._held or size > self._capacity_bytes:
                data.close()
                return
            self._held[sha256] = data
            self._total += size
            while self._total > self._capacity_bytes or len(self._held) > self._capacity_objects:
                _, oldest = self._held.popitem(last=False)
                self._total -= _weight(oldest)
                oldest.close()

    def pop(self, sha256: str) -> SharedBytes | None:
        """Return and forget bytes, which are the caller's to close, or None."""
        with self._lock:
            data = self._held.pop(sha256, None)
            self._total -= 0 if data is None else _weight(data)
            return data


def _weight(data: SharedBytes) -> int:
    return data.size if data.in_memory else 0


OBJECT_CACHE: Final = ObjectCache()
"""The one of this process."""
