"""Gathers what is on its way to one place into packs: a runner may hold all of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from transforms.core.batch_sizes import SHUFFLE_BATCH

MAX_WAITING: Final = 256
"""Places with elements that wait for their pack to be full."""


@dataclass(eq=False)  # a DoFn is hashed by who it is
class BatchForShuffleFn(beam.DoFn):
    """Elements to packs, in the global window. Few wait: what is not packed is large.

    Attributes:
        place_of: says where an element goes.
        packed: makes the pack of a place and up to `SHUFFLE_BATCH` of its elements.
    """

    place_of: Callable[[Any], Hashable]
    packed: Callable[[Any, Sequence[Any]], Any]

    def start_bundle(self) -> None:
        self._waiting: dict[Hashable, list[Any]] = {}

    def process(self, element: Any) -> Iterator[Any]:
        place = self.place_of(element)
        waiting = self._waiting.setdefault(place, [])
        waiting.append(element)
        if len(waiting) == SHUFFLE_BATCH:
            yield self.packed(place, self._waiting.pop(place))
        elif len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            yield self.packed(oldest, self._waiting.pop(oldest))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for place, elements in self._waiting.items():
            yield GlobalWindows.windowed_value(self.packed(place, elements))
