"""The parameters of the flex templates of Dataflow, from the declarations of the options.

A template offers only what can run there. Workers see their image and Cloud Storage: other stores and
DICOMweb servers need credentials, which nothing gives to them. The launcher derives `--device` from
whether GPUs are requested.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipeline import __version__
from pipeline.cli.arguments import help_of
from pipeline.runners import RUNNERS
from transforms.config.run_options import RouteOptions
from transforms.config.stream_options import CLOUD_STORAGE_PATTERN
from transforms.core.choices import FILES, MANIFEST, STREAMING_SOURCES
from transforms.core.option import BATCH, STREAMING, Option, options_by_group

BEAM_PARAMETERS: Final = {
    "sdk_container_image": "image of the workers, with this version of the router",
    "dataflow_service_options": "service options, separated by commas; "
    "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver gives every worker a GPU, and "
    "excludes accelerator",
    "experiments": "experiments of Beam and Dataflow, separated by commas",
    "number_of_worker_harness_threads": "number of threads of a worker [default: chosen by the service]",
}
"""Help by option of Beam's that has no flag of gcloud's own."""
DESCRIPTIONS: Final = {
    BATCH: "Routes the radiographs of a folder into a lake, by body part, once. Not a medical device.",
    STREAMING: "Routes radiographs into a lake, by body part, as they arrive. Not a medical device.",
}
CHOICES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    BATCH: {"source": (FILES, MANIFEST)},
    STREAMING: {"source": STREAMING_SOURCES},
}
"""Values that can run there, where an option has others."""
PATTERNS: Final[dict[str, dict[str, str]]] = {
    BATCH: {},
    STREAMING: {"input": r"^(gs://[^\n\r]+|projects/[^/\s]+/subscriptions/[^/\s]+)$"},
}
_HELP_OF_BOTH: Final = {
    "patient_key_file": "secret in Secret Manager with the key (16 bytes or more) of the column "
    "patient_key, projects/P/secrets/S/versions/V; without it the column is null",
    "write_sr": "write a DICOM Structured Report (TID 1500) about each routed object below "
    "structured_reports/",
    "accelerator": "GPU for the workers that run the model, and for no others: "
    "type:nvidia-l4;count:1;install-nvidia-driver; images then cross a shuffle",
}
HELP: Final = {
    BATCH: {
        **_HELP_OF_BOTH,
        "input": "folder (searched recursively), glob or object; with source manifest, a list of objects",
        "source": "what input is. files: objects; manifest: a list of objects, or an inventory report "
        "of Cloud Storage [default: files]",
    },
    STREAMING: {
        **_HELP_OF_BOTH,
        "input": "folder (searched recursively) or glob; with source pubsub, a subscription, "
        "projects/P/subscriptions/S",
        "source": "what input is. watch: objects, and those that arrive later; pubsub: a subscription "
        "to notifications of Cloud Storage",
    },
}
"""Help by template and name, where that of the command line does not apply."""
PARENTS: Final = {
    "inventory_root": ("source", (MANIFEST,)),
    "overrule_people": ("reprocess", ("model", "policy", "all")),
    "ack_deadline": ("source", ("pubsub",)),
    "model_poll_interval": ("models", ()),
}
"""Parameter by which another one has a meaning, and the values that give it; none for any."""

WHOLE_NUMBER: Final = "^[1-9][0-9]*$"
POSITIVE_NUMBER: Final = r"^([1-9][0-9]*(\.[0-9]+)?|0?\.0*[1-9][0-9]*)$"


def flex_template(template: str) -> str:
    """Return templates/dataflow/TEMPLATE.json."""
    beam, needed = _beam_options(), RUNNERS["DataflowRunner"].needs
    parameters = [_parameter(template, one) for one in options_of_template(template).values()]
    for name, text in BEAM_PARAMETERS.items():
        number = (
            {"paramType": "NUMBER", "regexes": [WHOLE_NUMBER]} if beam[name].type is int else {}
        )
        parameters.append(
            {
                "name": name,
                "label": _label(name),
                "helpText": text,
                "isOptional": name not in needed,
                "groupName": "Beam and Dataflow",
                **(number or {"paramType": "TEXT"}),
            }
        )
    is_streaming = template == STREAMING
    modes = {"supportsExactlyOnce": True, "supportsAtLeastOnce": True} if is_streaming else {}
    metadata = {
        "name": f"DICOM Imaging Router {__version__}, {template}",
        "description": DESCRIPTIONS[template],
        "streaming": is_streaming,
        **modes,
        "parameters": parameters,
    }
    return json.dumps(metadata, indent=2) + "\n"


def options_of_template(template: str) -> dict[str, Option]:
    """Return the options of `route` that are parameters of a template, by name."""
    return {
        one.flag: one
        for options in options_by_group(RouteOptions).values()
        for one in options
        if template in one.declaration.templates
    }


def pattern_of(template: str, one: Option) -> str | None:
    """Return the regular expression that an option's value must match, or None for any text."""
    if own := PATTERNS[template].get(one.flag) or one.declaration.pattern:
        return own
    if one.kind is bool:
        return "^(true|false)$"
    if choices := choices_of(template, one):
        return f"^({'|'.join(choices)})$"
    return {int: WHOLE_NUMBER, float: POSITIVE_NUMBER}.get(one.kind)


def choices_of(template: str, one: Option) -> tuple[str, ...]:
    """Return the values of an option that can run in a template; empty for any."""
    return CHOICES[template].get(one.flag, one.declaration.choices)


def _parameter(template: str, one: Option) -> dict[str, Any]:
    choices = choices_of(template, one)
    required = one.is_required or (bool(choices) and one.default not in choices)
    pattern = pattern_of(template, one)
    found: dict[str, Any] = {
        "name": one.flag,
        "label": _label(one.flag),
        "helpText": _help(template, one),
        "isOptional": not required,
        "paramType": _kind(one, choices),
    }
    if one.flag in PARENTS:
        found["parentName"], values = PARENTS[one.flag]
        found |= {"parentTriggerValues": list(values)} if values else {}
    else:
        group = one.declaration.group
        found["groupName"] = group[0].upper() + group[1:]
    if pattern:
        found["regexes"] = [pattern]
    if choices:
        found["enumOptions"] = [{"value": value, "label": value} for value in choices]
    if one.kind is bool or (choices and not required):
        found["defaultValue"] = "false" if one.kind is bool else str(one.default)
    return found


def _kind(one: Option, choices: tuple[str, ...]) -> str:
    if choices:
        return "ENUM"
    return {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER"}.get(one.kind, "TEXT")


def _help(template: str, one: Option) -> str:
    """Return the help of an option; only Cloud Storage is named where a value must be there."""
    text = HELP[template].get(one.flag) or help_of(one)
    if one.declaration.pattern == CLOUD_STORAGE_PATTERN:
        for other in (", local, gs:// or s3://", ": a folder, local, gs:// or s3://"):
            text = text.replace(other, ", gs://BUCKET/…")
        text = text.replace("a folder, gs:// or s3://", "gs://BUCKET/FOLDER")
    return " ".join(text.split())


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _beam_options() -> dict[str, argparse.Action]:
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return {action.dest: action for action in parser._actions}
