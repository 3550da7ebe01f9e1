"""The real graph as a proto, with nothing run."""

from __future__ import annotations

import argparse
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.environments import DockerEnvironment

from pipeline.cli.route import add_arguments, route_config
from pipeline.graph import build, build_streaming
from pipeline.sources.periodic_trigger import PERIODIC
from transforms.config.route_config import RouteConfig

IN_STORE = ["--input", "gs://hospital/incoming", "--lake", "gs://hospital/lake"]


def route_parser() -> argparse.ArgumentParser:
    """The options of `route`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    return parser


def config_of(*arguments: str) -> RouteConfig:
    """The configuration of a run over an object store, with options besides."""
    return route_config(route_parser().parse_args([*IN_STORE, *arguments]))


def attach(pipeline: beam.Pipeline, config: RouteConfig, clock: str = PERIODIC) -> beam.Pipeline:
    """Attach the graph of a configuration to a pipeline, which it gives back."""
    if config.is_streaming:
        build_streaming(pipeline, config, clock)
    else:
        build(pipeline, config)
    return pipeline


def batch() -> beam.Pipeline:
    """The batch graph, which nobody runs."""
    return attach(beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])), config_of())


def streaming(clock: str) -> beam.Pipeline:
    """The streaming graph by one of the clocks, which nobody runs."""
    options = PipelineOptions(["--runner=FnApiRunner", "--streaming"])
    return attach(beam.Pipeline(options=options), config_of("--source=watch"), clock)


def proto_of(pipeline: beam.Pipeline, image: str = "image") -> Any:
    """What an engine with containers is given."""
    return pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image(image))
