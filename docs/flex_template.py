"""The parameters of Dataflow's flex template, from the declarations of the options."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipeline import __version__
from pipeline.cli.arguments import help_of
from pipeline.runners import RUNNERS
from transforms.config.run_options import RouteOptions
from transforms.core.option import Option, options_by_group

BEAM_PARAMETERS: Final = (
    "sdk_container_image dataflow_service_options experiments number_of_worker_harness_threads"
).split()
"""Options of Beam's that have no flag of gcloud's own."""
PARAMETERS: Final = {
    one.flag: one
    for options in options_by_group(RouteOptions).values()
    for one in options
    if one.declaration.in_template
}
"""Options of `route` that are parameters, by name."""
WHOLE_NUMBER: Final = "^[0-9]+$"


def flex_template() -> str:
    """Return templates/dataflow/metadata.json."""
    beam, needed = _beam_options(), RUNNERS["DataflowRunner"].needs
    parameters = [
        _parameter(name, help_of(one), one.is_required, pattern_of(one))
        for name, one in PARAMETERS.items()
    ]
    for name in BEAM_PARAMETERS:
        pattern = WHOLE_NUMBER if beam[name].type is int else None
        parameters.append(_parameter(name, beam[name].help or "", name in needed, pattern))
    metadata = {
        "name": f"DICOM Imaging Router {__version__}",
        "description": "Routes X-ray DICOM objects to per-body-part data lakes. Not a medical device.",
        "streaming": False,
        "parameters": parameters,
    }
    return json.dumps(metadata, indent=2) + "\n"


def pattern_of(one: Option) -> str | None:
    """Return the regular expression that an option's value must match, or None."""
    if one.kind is bool:
        return "^(true|false)$"
    if one.declaration.choices:
        return f"^({'|'.join(one.declaration.choices)})$"
    return WHOLE_NUMBER if one.kind is int else one.declaration.pattern


def _parameter(name: str, help: str, required: bool, pattern: str | None) -> dict[str, Any]:
    found = {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": " ".join(help.split()),
        "isOptional": not required,
    }
    return {**found, "regexes": [pattern]} if pattern else found


def _beam_options() -> dict[str, argparse.Action]:
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return {action.dest: action for action in parser._actions}
