"""Concurrent processing of a bundle's elements in other threads, with results in input order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
        start: Starts processing an element.
        size: Returns the size of an element, in any unit.
    """

    def __init__(
        self, start: Callable[[T], Future[R]], size: Callable[[T], int] = lambda element: 0
    ) -> None:
        self._start, self._size_of = start, size
        self._in_flight: deque[tuple[T, Future[R], Timestamp, BoundedWindow]] = deque()
        self._size = 0

    def submit(self, element: T, timestamp: Timestamp, window: BoundedWindow) -> None:
        """Start processing an element."""
        self._in_flight.append((element, self._start(element), timestamp, window))
        self._size += self._size_of(element)

    def completed(
        self, *, max_in_flight: int = 0, max_size: float = math.inf
    ) -> Iterator[tuple[T, R, Callable[[object], WindowedValue]]]:
        """Yield results in input order until few elements remain.

        Args:
            max_in_flight: Maximum number of elements that remain.
            max_size: Maximum of their sizes together; one element may exceed it.

        Yields:
            The element, its result, and a function that gives a value the element's timestamp and window.
        """
        while len(self._in_flight) > max_in_flight or (
            self._size > max_size and len(self._in_flight) > 1
        ):
            element, future, timestamp, window = self._in_flight.popleft()
            self._size -= self._size_of(element)
            yield element, future.result(), partial(_windowed_value, timestamp, window)


def _windowed_value(timestamp: Timestamp, window: BoundedWindow, value: object) -> WindowedValue:
    return WindowedValue(value, timestamp, (window,))
