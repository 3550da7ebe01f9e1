"""Read objects ahead of the decoders: many at a time, within a limit of memory.

What a read needs is time, not processors: an object from a store far away takes a round trip and as long
as its bytes on one connection. All steps of a process share one `ReadAhead`, which therefore bounds the
memory of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

START_READS: Final = 4
"""Reads that run at the same time until a decoder has waited for one."""


class Read(Protocol):
    """An object to read.

    Attributes:
        memory_bytes: what it takes until it is released, at most.
    """

    @property
    def memory_bytes(self) -> int: ...

    def parts(self) -> Sequence[Callable[[], None]]:
        """Return what reads the object, to be called in any order and at the same time.

        Called once the memory is there.
        """


class Reservation:
    """The memory of one object; released once, by whoever used the object."""

    def __init__(self, owner: ReadAhead, size: int) -> None:
        self._owner, self._size = owner, size

    def release(self) -> None:
        """Give the memory back; the second call does nothing."""
        self._owner._release(self)

    def _take(self) -> int:
        size, self._size = self._size, 0
        return size


Done = Callable[[BaseException | None, Reservation], None]
"""Called when an object is read, with its first error; releases its memory, or sees to that."""


class ReadAhead:
    """Reads that wait or run, in order of submission. Thread-safe.

    A read starts once its object has memory. One object may exceed the limit, if it is the only one. How
    many run at the same time is learned: it grows by one whenever a decoder had to wait (`grow`), up to
    a maximum. Reads of a near store thus stay few, and those of a far one as many as keep decoders busy.

    Args:
        max_bytes: Memory of the objects that are read, from the start of a read until its object is used.
        max_reads: Maximum number of reads that run at the same time.

    Attributes:
        max_bytes: as above.
        reads: Number of reads that may run at the same time now.
        peak_bytes: Maximum of the memory so far.
    """

    def __init__(self, max_bytes: int, max_reads: int) -> None:
        self.max_bytes, self._max_reads = max_bytes, max_reads
        self.reads = min(START_READS, max_reads)
        self.peak_bytes = 0
        self._bytes, self._running = 0, 0
        self._waiting: deque[tuple[Read, Done]] = deque()
        self._parts: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(max_reads, thread_name_prefix="read-ahead")

    @property
    def used_bytes(self) -> int:
        """Memory of the objects that are read or wait for a decoder."""
        return self._bytes

    def submit(self, read: Read, done: Done) -> None:
        """Read an object as soon as there is room; `done` is called in another thread."""
        with self._lock:
            self._waiting.append((read, done))
        self._start()

    def grow(self) -> None:
        """Let one more read run at the same time if some wait, because a decoder has nothing to do."""
        with self._lock:
            if (self._waiting or self._parts) and self._running >= self.reads:
                self.reads = min(self.reads + 1, self._max_reads)
        self._start()

    def _start(self) -> None:
        """Start what there is room for."""
        while True:
            with self._lock:
                if self._running >= self.reads:
                    return
                if self._parts:
                    self._running += 1
                    self._executor.submit(self._run, self._parts.popleft())
                    continue
                if not self._waiting:
                    return
                read, done = self._waiting[0]
                size = read.memory_bytes
                if self._bytes and self._bytes + size > self.max_bytes:
                    return
                self._waiting.popleft()
                self._bytes += size
                self.peak_bytes = max(self.peak_bytes, self._bytes)
                self._running += 1
                self._executor.submit(self._run, self._opening(read, done, size))

    def _opening(self, read: Read, done: Done, size: int) -> Callable[[], None]:
        """Return what prepares an object and reads its first part, which then adds the others."""
        reservation = Reservation(self, size)

        def run() -> None:
            try:
                parts = [*read.parts()]
            except BaseException as error:
                done(error, reservation)
                return
            if not parts:
                done(None, reservation)
                return
            run_part = _Parts(len(parts), lambda error: done(error, reservation)).run
            if len(parts) > 1:
                with self._lock:  # before those of later objects
                    self._parts.extend(lambda part=part: run_part(part) for part in parts[1:])  # type: ignore[misc]
                self._start()
            run_part(parts[0])

        return run

    def _run(self, part: Callable[[], None]) -> None:
        try:
            part()
        finally:
            with self._lock:
                self._running -= 1
            self._start()

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            self._bytes -= reservation._take()
        self._start()


class _Parts:
    """The parts of one object: after an error the others are not read. Thread-safe."""

    def __init__(self, count: int, done: Callable[[BaseException | None], None]) -> None:
        self._left, self._done = count, done
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, part: Callable[[], None]) -> None:
        """Read a part; the last one reports the object."""
        if self._error is None:
            try:
                part()
            except BaseException as error:
                with self._lock:
                    self._error = self._error or error
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._done(self._error)


_shared: dict[tuple[int, int], ReadAhead] = {}
_SHARING: Final = threading.Lock()


def shared_read_ahead(max_bytes: int, max_reads: int) -> ReadAhead:
    """Return the `ReadAhead` of this process for these limits."""
    with _SHARING:
        key = (max_bytes, max_reads)
        if key not in _shared:
            _shared[key] = ReadAhead(max_bytes, max_reads)
        return _shared[key]
