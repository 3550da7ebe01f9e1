"""Concurrent processing of a bundle's elements in other threads, with results in input order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import ClassVar, Generic, TypeAlias, TypeVar

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

WindowedOutput: TypeAlias = WindowedValue | TaggedOutput[str, WindowedValue]
"""What such a DoFn emits: to its main output, or with a tag."""
T = TypeVar("T")
R = TypeVar("R")


class InFlightDoFn(beam.DoFn, Generic[T, R]):
    """Base of DoFns that work on elements in other threads while the next ones arrive.

    A subclass defines `start` and `outputs`. Its `process` submits elements, and emits the results of
    those that need not remain in flight; the others follow at the end of the bundle.

    Attributes:
        max_size: Maximum size of the elements in flight together, in the unit of `size`; one element may
            exceed it.
    """

    max_size: ClassVar[float] = math.inf

    def start(self, element: T) -> Future[R]:
        """Start processing an element."""
        raise NotImplementedError

    def outputs(self, element: T, result: R) -> Iterable[object]:
        """Return what is emitted for an element: values, or `TaggedOutput`s of values."""
        raise NotImplementedError

    def size(self, element: T) -> int:
        """Return the size of an element, in any unit."""
        return 0

    def start_bundle(self) -> None:
        self._in_flight: deque[tuple[T, Future[R], Timestamp, BoundedWindow]] = deque()
        self._size = 0

    def finish_bundle(self) -> Iterator[WindowedOutput]:
        yield from self.completed(max_in_flight=0)

    def submit(self, element: T, timestamp: Timestamp, window: BoundedWindow) -> None:
        """Start processing an element."""
        self._in_flight.append((element, self.start(element), timestamp, window))
        self._size += self.size(element)

    def completed(self, max_in_flight: int) -> Iterator[WindowedOutput]:
        """Yield outputs in input order, with the timestamp and window of their element.

        Args:
            max_in_flight: Maximum number of elements that remain.
        """
        while len(self._in_flight) > max_in_flight or (
            self._size > self.max_size and len(self._in_flight) > 1
        ):
            element, future, timestamp, window = self._in_flight.popleft()
            self._size -= self.size(element)
            for output in self.outputs(element, future.result()):
                if isinstance(output, TaggedOutput):
                    windowed = WindowedValue(output.value, timestamp, (window,))
                    yield TaggedOutput(output.tag, windowed)
                else:
                    yield WindowedValue(output, timestamp, (window,))
