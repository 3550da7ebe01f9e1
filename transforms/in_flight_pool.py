"""Concurrent processing of a bundle's elements in a thread pool, with results in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

WindowedOutput: TypeAlias = WindowedValue | TaggedOutput[str, WindowedValue]
"""What a DoFn emits from the pool: to its main output, or with a tag."""
T = TypeVar("T")
R = TypeVar("R")


class InFlightPool(Generic[T, R]):
    """Elements of one bundle that are submitted and not yet returned. Not thread-safe.

    Args:
        executor: Thread pool.
        function: Called with each element in the pool.
    """

    def __init__(self, executor: Executor, function: Callable[[T], R]) -> None:
        self._executor, self._function = executor, function
        self._in_flight: deque[tuple[T, Future[R], Timestamp, BoundedWindow]] = deque()

    def submit(self, element: T, timestamp: Timestamp, window: BoundedWindow) -> None:
        """Start processing an element."""
        future = self._executor.submit(self._function, element)
        self._in_flight.append((element, future, timestamp, window))

    def completed(
        self, *, max_in_flight: int = 0
    ) -> Iterator[tuple[T, R, Callable[[object], WindowedValue]]]:
        """Yield results in input order until at most `max_in_flight` elements remain.

        Yields:
            The element, its result, and a function that gives a value the element's timestamp and window.
        """
        while len(self._in_flight) > max_in_flight:
            element, future, timestamp, window = self._in_flight.popleft()
            yield element, future.result(), partial(_windowed_value, timestamp, window)


def _windowed_value(timestamp: Timestamp, window: BoundedWindow, value: object) -> WindowedValue:
    return WindowedValue(value, timestamp, (window,))
