"""The periodic trigger of the streaming sources: one element per input and poll interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.io.flink.flink_streaming_impulse_source import FlinkStreamingImpulseSource
from apache_beam.transforms.periodicsequence import PeriodicImpulse, RebaseMode
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows

PERIODIC: Final = "PeriodicImpulse"
FLINK: Final = "FlinkStreamingImpulse"
"""Periodic impulses. On Flink, the splittable DoFn behind `PeriodicImpulse` sometimes never emits: its
watermark runs ahead of its first element."""


@dataclass
class PeriodicTrigger(beam.PTransform):  # type: ignore[misc]
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

    def expand(self, pbegin: pvalue.PBegin) -> beam.PCollection[int]:
        numbers = range(self.inputs)
        return (
            pbegin
            | "Impulse" >> self._impulse()
            | "PerInput"
            >> beam.FlatMap(lambda _: [(n, None) for n in numbers]).with_output_types(
                tuple[int, None]
            )
            | "FireImmediately"
            >> beam.WindowInto(
                GlobalWindows(),
                trigger=Repeatedly(AfterCount(1)),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | "GroupByInput" >> beam.GroupByKey()
            | "InputNumber" >> beam.Keys().with_output_types(int)
        )

    def _impulse(self) -> beam.PTransform:
        if self.impulse == FLINK:
            interval_ms = max(1, round(self.interval * 1000))
            return FlinkStreamingImpulseSource().set_interval_ms(interval_ms)
        return PeriodicImpulse(fire_interval=self.interval, rebase=RebaseMode.REBASE_START)
