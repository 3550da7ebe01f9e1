"""Resolve options to the configuration of a run."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from models import bundle
from pipeline import __version__
from pipeline.cli.arguments import read_policy
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.config.run_options import ObjectOptions, RouteOptions
from transforms.core.choices import STREAMING_SOURCES
from transforms.core.option import Group, from_values, options_of
from transforms.core.run_id import new_run_id
from transforms.lake.layout import Layout
from transforms.lake.marker import recorded_file_mode
from transforms.storage.permissions import FILE_MODE, parse_file_mode
from transforms.storage.schemes import canonical, is_local, root_problem

LOG: Final = logging.getLogger("dicom_router")


def route_config(args: argparse.Namespace) -> RouteConfig:
    """Return the configuration of `route`.

    Raises:
        UsageError: an option, the model or the policy cannot be used.
    """
    return resolve(from_values(RouteOptions, vars(args)))


def object_config(options: Mapping[str, Any], inputs: Sequence[str], lake: str) -> RouteConfig:
    """Return the configuration of a command that has only the options for single objects.

    Args:
        options: values by flag; others are ignored.
        inputs: as in `RouteOptions`.
        lake: as in `RouteOptions`.

    Raises:
        UsageError: as `route_config`.
    """
    given = _values(from_values(ObjectOptions, options), ObjectOptions)
    return resolve(RouteOptions(**given, inputs=tuple(inputs), lake=lake))


def resolve(options: RouteOptions) -> RouteConfig:
    """Return the configuration for options; reads the model bundle and the policy.

    Raises:
        UsageError: as `route_config`.
    """
    if why := root_problem(options.lake):
        raise ConfigError(f"--lake: {why}")
    is_streaming = options.source in STREAMING_SOURCES
    _require_applicable(options, is_streaming=is_streaming)
    info = _model_info(options.model_uri)
    shadow = None if options.shadow_model is None else _shadow_info(options.shadow_model, info)
    root = canonical(options.lake)
    own_policy = read_policy(options.policy_file, info.label_set)
    policy = own_policy.with_defaults(info.limits)
    sinks = {sink: canonical(root) for sink, root in policy.sinks.items()}
    given = _values(options, RouteOptions)
    given["ingest_date"] = options.ingest_date or time.strftime("%Y-%m-%d", time.gmtime())
    given["stream"] = options.stream if is_streaming else None
    given["policy_file"] = None  # has been read; remote workers have no such file
    return RouteConfig(
        **given,
        layout=Layout(
            root,
            sinks,
            _file_mode(options.file_mode, root),
            policy.by_region,
            {label: canonical(root) for label, root in policy.derived_roots.items()},
        ),
        run_id=new_run_id(),
        router_version=__version__,
        model_id=info.model_id,
        model_input_size=info.input_size,
        shadow_model_id=None if shadow is None else shadow.model_id,
        policy=policy,
        own_policy=own_policy,
    )


def _model_info(uri: str) -> bundle.BundleInfo:
    """Return the description of a bundle, and warn if it is not calibrated.

    Raises:
        BundleError: the bundle cannot be used.
    """
    info = bundle.read_info(uri)
    if info.onnx is not None:
        bundle.require_onnxruntime(uri)
    if not info.is_calibrated:
        LOG.warning(
            "model %s is not calibrated: every image is reviewed; see 'dicom-router calibrate'",
            info.model_id,
        )
    return info


def _shadow_info(uri: str, info: bundle.BundleInfo) -> bundle.BundleInfo:
    """Return the description of the bundle of --shadow_model; `info` is that of --model.

    Raises:
        BundleError: the bundle cannot be used.
    """
    shadow = _model_info(uri)
    if set(shadow.labels) != set(info.labels):
        raise bundle.BundleError(f"--shadow_model {uri}: its labels are not those of --model")
    if shadow.input_size > info.input_size:
        raise bundle.BundleError(
            f"--shadow_model {uri}: its input size is {shadow.input_size} pixels, and images are decoded "
            f"to the {info.input_size} of --model; compare it with 'dicom-router reroute --model' instead"
        )
    return shadow


def _file_mode(given: str, root: str) -> int:
    """Return the permissions of new files: as given, or those with which the lake was made."""
    try:
        if given:
            return parse_file_mode(given)
    except ValueError as error:
        raise ConfigError(f"--file_mode {error}") from error
    return recorded_file_mode(Layout(root)) if is_local(root) else FILE_MODE


def _values(options: object, cls: type) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(cls)}


def _require_applicable(options: RouteOptions, *, is_streaming: bool) -> None:
    """Raise `ConfigError` if an option is given that does not apply to the source."""
    if is_streaming and options.ingest_date:
        raise ConfigError(
            "--ingest_date: a stream appends to the partition of the current day; omit it"
        )
    if not is_streaming:
        given = [
            f"--{one.flag} needs a streaming source (--source watch or pubsub)"
            for one in options_of(RouteOptions)
            if one.declaration.group is Group.STREAMING and one.value_in(options) != one.default
        ]
        if given:
            raise ConfigError("; ".join(given))
