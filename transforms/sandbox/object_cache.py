"""Cache the bytes of decoded objects for placement, outside the graph.

Objects are never elements of the pipeline, which an engine may pickle between steps. On a cache miss, the
step reads the object again and verifies its sha256.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from transforms.core.shared_bytes import SharedBytes

CAPACITY_BYTES: Final = 1 << 30
"""Capacity in memory; bytes on disk do not count."""
CAPACITY_OBJECTS: Final = 256
"""Each object uses a file descriptor, of which a process commonly has 1,024."""


class ObjectCache:
    """A bounded, thread-safe FIFO cache of objects by content sha256."""

    def __init__(
        self, capacity_bytes: int = CAPACITY_BYTES, capacity_objects: int = CAPACITY_OBJECTS
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._capacity_objects = capacity_objects
        self._objects: OrderedDict[str, SharedBytes] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def put(self, sha256: str, data: SharedBytes) -> None:
        """Add an object and take ownership of it; evicted objects are closed."""
        size = _memory_bytes(data)
        with self._lock:
            if sha256 in self._objects or size > self._capacity_bytes:
                data.close()
                return
            self._objects[sha256] = data
            self._size_bytes += size
            while (
                self._size_bytes > self._capacity_bytes
                or len(self._objects) > self._capacity_objects
            ):
                _, oldest = self._objects.popitem(last=False)
                self._size_bytes -= _memory_bytes(oldest)
                oldest.close()

    def pop(self, sha256: str) -> SharedBytes | None:
        """Remove and return an object, which the caller must close; None if it is not cached."""
        with self._lock:
            data = self._objects.pop(sha256, None)
            self._size_bytes -= 0 if data is None else _memory_bytes(data)
            return data


def _memory_bytes(data: SharedBytes) -> int:
    return data.size if data.in_memory else 0


OBJECT_CACHE: Final = ObjectCache()
"""The cache of this process."""
