"""The periodic trigger of the streaming sources: one element per input and poll interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms.periodicsequence import PeriodicImpulse, RebaseMode
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows

PERIODIC: Final = "PeriodicImpulse"
FLINK: Final = "FlinkStreamingImpulse"
"""Periodic impulses. On Flink, the splittable DoFn behind `PeriodicImpulse` sometimes never emits: its
watermark runs ahead of its first element."""


@dataclass
class PeriodicTrigger(beam.PTransform[PBegin, PCollection[int]]):
    """Emit the number of each input, 0..inputs - 1, periodically.

    Grouping by the number sends all elements of one input to one worker, so that each input has one
    poller even where an engine runs the impulse on several workers.

    Attributes:
        inputs: number of inputs.
        interval: seconds between two elements of one input.
        impulse: `PERIODIC` or `FLINK`, as the engine needs.
    """

    inputs: int
    interval: float
    impulse: str

    def expand(self, pbegin: PBegin) -> PCollection[int]:
        numbers = range(self.inputs)
        triggers: PCollection[int] = (
            pbegin
            | "Impulse" >> self._impulse()
            | "PerInput"
            >> beam.FlatMap(lambda _: [(n, n) for n in numbers]).with_output_types(tuple[int, int])
            | "FireImmediately"
            >> beam.WindowInto(
                GlobalWindows(),
                trigger=Repeatedly(AfterCount(1)),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | "GroupByInput" >> beam.GroupByKey()
            | "InputNumber" >> beam.Keys().with_output_types(int)
        )
        return triggers

    def _impulse(self) -> beam.PTransform[PBegin, PCollection[Any]]:
        if self.impulse == FLINK:
            interval_ms = max(1, round(self.interval * 1000))
            source = FlinkStreamingImpulseSource()
            source.set_interval_ms(interval_ms)
            return source
        return PeriodicImpulse(fire_interval=self.interval, rebase=RebaseMode.REBASE_START)
