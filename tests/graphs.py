"""The pipeline graphs, built without being run."""

from __future__ import annotations

import argparse
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.environments import DockerEnvironment

from pipeline.cli.resolve_config import route_config
from pipeline.cli.route import add_arguments
from pipeline.graph import build, build_streaming
from pipeline.sources.periodic_trigger import PERIODIC
from transforms.config.route_config import RouteConfig

IN_STORE = ["--input", "gs://hospital/incoming", "--lake", "gs://hospital/lake"]


def route_parser() -> argparse.ArgumentParser:
    """Return the argument parser of `route`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    return parser


def config_of(*arguments: str) -> RouteConfig:
    """Return the configuration of a run over an object store, with additional options."""
    return route_config(route_parser().parse_args([*IN_STORE, *arguments]))


def attach(pipeline: beam.Pipeline, config: RouteConfig, impulse: str = PERIODIC) -> beam.Pipeline:
    """Attach the graph of a configuration to a pipeline, and return the pipeline."""
    if config.is_streaming:
        build_streaming(pipeline, config, impulse)
    else:
        build(pipeline, config)
    return pipeline


def batch() -> beam.Pipeline:
    """Return the batch graph."""
    return attach(beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])), config_of())


def streaming(impulse: str) -> beam.Pipeline:
    """Return the streaming graph with an impulse of `PeriodicTrigger`."""
    options = PipelineOptions(["--runner=FnApiRunner", "--streaming"])
    return attach(beam.Pipeline(options=options), config_of("--source=watch"), impulse)


def proto_of(pipeline: beam.Pipeline, image: str = "image") -> Any:
    """Return the proto that an engine with containers receives."""
    return pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image(image))
