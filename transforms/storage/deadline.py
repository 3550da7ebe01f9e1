"""Give up calls that block: a read of a network file system that does not answer never returns."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

STALL_S: Final = 300.0
"""Longest time without progress, as long as a file server needs to restart."""
MAX_ABANDONED: Final = 64
"""Abandoned calls that may block at the same time; further calls fail at once."""

_abandoned: set[object] = set()
"""Calls that still block; a set changes atomically."""


class Progress:
    """Tells a caller that waits that its call proceeds."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self) -> None:
        """Record that something was done."""
        self.steps += 1


class _Call(Generic[T]):
    """A call in a thread of its own, which may never return."""

    def __init__(self, function: Callable[[Progress], T], dispose: Callable[[T], None]) -> None:
        self._function, self._dispose = function, dispose
        self._lock = threading.Lock()
        self._is_abandoned = False
        self.progress, self.returned = Progress(), threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name="storage-call", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._function(self.progress)
        except BaseException as error:
            self.error = error
        with self._lock:
            self.returned.set()
        if self._is_abandoned:
            _abandoned.discard(self)
            if self.error is None:
                self._dispose(self.result)  # type: ignore[arg-type]

    def abandon(self) -> bool:
        """Stop waiting; return False if the call has just returned."""
        with self._lock:
            self._is_abandoned = not self.returned.is_set()
            if self._is_abandoned:
                _abandoned.add(self)
        return self._is_abandoned


def call_with_deadline(
    function: Callable[[Progress], T],
    *,
    stall_s: float | None = None,
    dispose: Callable[[T], None] = lambda result: None,
) -> T:
    """Call a function that may block, and stop waiting once it makes no progress.

    The call itself cannot be ended: its thread stays until the system answers, and must use only what it
    owns, such as descriptors of its own.

    Args:
        function: Called with a `Progress`.
        stall_s: Longest time between two steps of progress, in seconds; None: `STALL_S`.
        dispose: Called with a result that arrives too late, such as an open file.

    Raises:
        TimeoutError: There was no progress, or too many earlier calls still block.
        BaseException: What the function raised.
    """
    if len(_abandoned) >= MAX_ABANDONED:
        raise TimeoutError(errno.ETIMEDOUT, "the storage does not answer earlier calls")
    stall_s = STALL_S if stall_s is None else stall_s
    call = _Call(function, dispose)
    steps = -1
    while steps != call.progress.steps:
        steps = call.progress.steps
        if call.returned.wait(stall_s):
            break
    if not call.returned.is_set() and call.abandon():
        raise TimeoutError(errno.ETIMEDOUT, "the storage does not answer")
    if call.error is not None:
        raise call.error
    return call.result  # type: ignore[return-value]
