"""What Beam computes once for a graph is what it would compute each time."""

from __future__ import annotations

import inspect
import types

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.transforms import core

from pipeline.beam_caches import cache_graph_construction

FLAGS = ["--streaming", "--experiments=one", "--experiments=two", "--num_workers=3"]


class WithParameters(beam.DoFn):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def process(self, element: int, at: object = beam.DoFn.TimestampParam, other: int = 7) -> None:
        """Does nothing."""


@pytest.mark.parametrize("do_fn", [WithParameters(), beam.DoFn()])
def test_signatures_are_those_that_are_inspected_each_time(do_fn: object) -> None:
    cache_graph_construction()
    cached = core.get_function_args_defaults
    inspected = cached.__wrapped__  # type: ignore[attr-defined]
    methods = [m for _, m in inspect.getmembers(do_fn) if isinstance(m, types.MethodType)]
    assert methods
    for method in methods * 2:
        assert cached(method) == inspected(method)
    arguments, _ = cached(methods[0])
    arguments.append("of the caller")
    assert cached(methods[0]) == inspected(methods[0])


@pytest.mark.parametrize("view", [DebugOptions, SetupOptions, StandardOptions, WorkerOptions])
def test_views_of_options_are_those_that_are_parsed_each_time(view: type[PipelineOptions]) -> None:
    cache_graph_construction()
    parsed = PipelineOptions.view_as.__wrapped__  # type: ignore[attr-defined]
    for _ in range(2):
        one, other = PipelineOptions(FLAGS), PipelineOptions(FLAGS)
        assert vars(one.view_as(view)._visible_options) == vars(
            parsed(other, view)._visible_options
        )
        assert one._all_options == other._all_options


def test_what_is_set_in_a_view_is_seen_in_others_of_the_same_options_only() -> None:
    cache_graph_construction()
    one, other = PipelineOptions(FLAGS), PipelineOptions(FLAGS)
    one.view_as(DebugOptions).add_experiment("three")
    one.view_as(WorkerOptions).num_workers = 5
    assert one.view_as(DebugOptions).experiments == ["one", "two", "three"]
    assert one.view_as(WorkerOptions).num_workers == 5
    assert other.view_as(DebugOptions).experiments == ["one", "two"]
    assert other.view_as(WorkerOptions).num_workers == 3
