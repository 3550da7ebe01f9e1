"""Runs one transform in memory: `eager(beam.Map(str), [1, 2])` returns `["1", "2"]`, in any order."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import DoOutputsTuple, PCollection

MAIN: Final = "main"
"""Name of a transform's only output."""

Inputs = Iterable[Any] | Mapping[str, Iterable[Any]] | None

_collected: dict[str, dict[str, list[Any]]] = {}
"""Elements by the id of a call and the name of an output. Workers are threads of this process."""


def eager(transform: beam.PTransform[Any, Any], inputs: Inputs = None) -> list[Any]:
    """Run a transform that has one output.

    Args:
        transform: What to test.
        inputs: Its elements; a mapping where its input is a dict of collections; None where it is
            a root.

    Returns:
        The elements of the output, in any order.
    """
    (output,) = eager_outputs(transform, inputs).values()
    return output


def eager_outputs(
    transform: beam.PTransform[Any, Any], inputs: Inputs = None
) -> dict[str, list[Any]]:
    """Run a transform; as `eager`, with the elements of each output by its tag."""
    call = uuid.uuid4().hex
    _collected[call] = defaultdict(list)
    try:
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            outputs = _by_name(_input(pipeline, inputs) | "Transform" >> transform)
            for name, elements in outputs.items():
                _ = elements | f"Collect{name}" >> beam.Map(_collect, call, name)
        return {name: _collected[call][name] for name in outputs}
    finally:
        del _collected[call]


def _input(pipeline: beam.Pipeline, inputs: Inputs) -> Any:
    if inputs is None:
        return pipeline
    if isinstance(inputs, Mapping):
        return {n: pipeline | f"Create{n}" >> beam.Create(list(i)) for n, i in inputs.items()}
    return pipeline | "Create" >> beam.Create(list(inputs))


def _by_name(output: Any) -> dict[str, PCollection[Any]]:
    if isinstance(output, DoOutputsTuple):
        main = output._main_tag or MAIN
        return {main: output[output._main_tag], **{tag: output[tag] for tag in output._tags}}
    if isinstance(output, Mapping):
        return dict(output)
    return {MAIN: output}


def _collect(element: Any, call: str, name: str) -> None:
    _collected[call][name].append(element)
