"""The clock of the streaming sources: an element for each input, again and again, always in one place."""

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
"""Clocks by engine. On Flink, the splittable source behind `PeriodicImpulse` sometimes stays silent
from the start: its watermark runs ahead of its first element."""


@dataclass
class PeriodicTrigger(beam.PTransform):  # type: ignore[misc]
    """Numbers of inputs, 0..inputs - 1, each every `every` seconds.

    An engine may run a clock in several places; grouped by the number, the ticks of one input are
    always at one place.
    """

    inputs: int
    every: float
    clock: str

    def expand(self, pbegin: pvalue.PBegin) -> beam.PCollection[int]:
        numbers = range(self.inputs)
        return (
            pbegin
            | "Clock" >> self._clock()
            | "PerInput"
            >> beam.FlatMap(lambda _: [(n, None) for n in numbers]).with_output_types(
                tuple[int, None]
            )
            | "AtOnce"
            >> beam.WindowInto(
                GlobalWindows(),
                trigger=Repeatedly(AfterCount(1)),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | "InOnePlace" >> beam.GroupByKey()
            | "Number" >> beam.Keys().with_output_types(int)
        )

    def _clock(self) -> beam.PTransform:
        if self.clock == FLINK:
            return FlinkStreamingImpulseSource().set_interval_ms(max(1, round(self.every * 1000)))
        return PeriodicImpulse(fire_interval=self.every, rebase=RebaseMode.REBASE_START)
