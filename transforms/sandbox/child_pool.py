"""Child processes that several threads share, started when they are first needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from queue import SimpleQueue

from transforms.imaging.limits import Limits
from transforms.sandbox.child_process import SandboxProcess


class ChildPool:
    """Sandboxed child processes, which start with the first objects. Thread-safe.

    Args:
        threads: Number of children.
        limits: Resource limits of an object.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self._threads, self._limits = threads, limits
        self._children: SimpleQueue[SandboxProcess | None] = SimpleQueue()
        for _ in range(threads):
            self._children.put(None)

    def close(self) -> None:
        """End the children."""
        for _ in range(self._threads):
            if child := self._children.get():
                child.close()
            self._children.put(None)

    @contextlib.contextmanager
    def child(self) -> Iterator[SandboxProcess]:
        """Yield a child that no other thread uses."""
        child = self._children.get()
        try:
            if child is None:
                child = SandboxProcess(
                    timeout_s=self._limits.max_object_seconds,
                    memory_bytes=self._limits.max_memory_bytes,
                )
            yield child
        finally:
            self._children.put(child)
