"""What a DoFn has begun in threads and not yet given out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Generic, TypeVar

from apache_beam.utils.windowed_value import WindowedValue

T = TypeVar("T")
R = TypeVar("R")


class InFlightPool(Generic[T, R]):
    """Elements of one bundle that are worked on, in their order. Not safe between threads."""

    def __init__(self, pool: Executor, work: Callable[[T], R]) -> None:
        self._pool, self._work = pool, work
        self._begun: deque[tuple[T, Future[R], Any, Any]] = deque()

    def submit(self, element: T, timestamp: Any, window: Any) -> None:
        """Begin the work on an element."""
        self._begun.append((element, self._pool.submit(self._work, element), timestamp, window))

    def completed(self, *, ahead: int = 0) -> Iterator[tuple[T, R, Callable[[Any], WindowedValue]]]:
        """Wait for all but the last `ahead` elements.

        Gives each with what its work came to, and what puts a value where the element came from.
        """
        while len(self._begun) > ahead:
            element, future, timestamp, window = self._begun.popleft()
            yield element, future.result(), partial(_stamped, timestamp, window)


def _stamped(timestamp: Any, window: Any, value: Any) -> WindowedValue:
    return WindowedValue(value, timestamp, (window,))
