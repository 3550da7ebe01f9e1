"""The parameters of the flex template match the options of `route` and of Beam.

`python -m tests.engines.test_flex_template` regenerates metadata.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipeline import __version__
from pipeline.runners import RUNNERS
from tests.graphs import IN_STORE, config_of, route_parser

TEMPLATE = Path(__file__).parents[2] / "templates" / "dataflow"
METADATA = TEMPLATE / "metadata.json"
IN_A_STORE = r"^(gs|s3)://[^\n\r]+$"
OF_ROUTE = {
    "input": IN_A_STORE, "source": None, "lake": IN_A_STORE, "model": IN_A_STORE, "policy": None,
    "device": None, "accelerator": None, "batch_size": None, "fetch_threads": None, "frame": None,
    "ingest_date": None, "reprocess": None, "index_shards": None, "allow_empty": None,
    "log_uris": None,
}  # fmt: skip
"""Options of `route` that are parameters of the template, with the pattern of their values."""
OF_BEAM = (
    "sdk_container_image dataflow_service_options experiments number_of_worker_harness_threads"
).split()
"""Options of Beam that have no flag in gcloud."""


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {a.dest: a for a in parser._actions}


def beam_parser() -> argparse.ArgumentParser:
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser


def regex_of(action: argparse.Action, given: str | None) -> str | None:
    if action.nargs == 0:
        return "^(true|false)$"
    if action.choices:
        return f"^({'|'.join(map(str, action.choices))})$"
    return "^[0-9]+$" if action.type is int else given


def parameter(name: str, action: argparse.Action, regex: str | None) -> dict[str, Any]:
    needed = action.required or name in RUNNERS["DataflowRunner"].needs
    found = {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": " ".join((action.help or "").split()),
        "isOptional": not needed,
    }
    regex = regex_of(action, regex)
    return {**found, "regexes": [regex]} if regex else found


def metadata() -> dict[str, Any]:
    route, beam = options_of(route_parser()), options_of(beam_parser())
    return {
        "name": f"DICOM Imaging Router {__version__}",
        "description": "Routes X-ray DICOM objects to per-body-part data lakes. Not a medical device.",
        "streaming": False,
        "parameters": [
            *(parameter(name, route[name], regex) for name, regex in OF_ROUTE.items()),
            *(parameter(name, beam[name], None) for name in OF_BEAM),
        ],
    }


def text() -> str:
    return json.dumps(metadata(), indent=2) + "\n"


def launcher() -> Any:
    spec = importlib.util.spec_from_file_location("launch", TEMPLATE / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_metadata_matches_the_options() -> None:
    regenerate = "run 'python -m tests.engines.test_flex_template'"
    assert METADATA.read_text() == text(), regenerate


def test_required_options_are_required_parameters() -> None:
    needed = {p["name"] for p in metadata()["parameters"] if not p["isOptional"]}
    assert needed == {"input", "lake", "sdk_container_image"}


def test_the_launcher_lists_every_flag() -> None:
    route = options_of(route_parser())
    assert set(launcher().FLAGS) == {name for name in OF_ROUTE if route[name].nargs == 0}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--allow_empty=true", "--log_uris=false"], ["--allow_empty"]),
        (["--lake=gs://b/true", "--allow_empty"], ["--lake=gs://b/true", "--allow_empty"]),
    ],
)
def test_flags_are_parsed_from_true_and_false(given: list[str], passed: list[str]) -> None:
    assert list(launcher().arguments(given)) == passed


def test_defaults_match_their_patterns() -> None:
    given = dict(zip([a.removeprefix("--") for a in IN_STORE[::2]], IN_STORE[1::2], strict=True))
    route = options_of(route_parser())
    for name, regex in OF_ROUTE.items():
        pattern, value = regex_of(route[name], regex), given.get(name, route[name].default)
        if pattern and value is not None and name != "model" and route[name].nargs != 0:
            assert re.fullmatch(pattern, str(value)), name
    assert config_of().model_uri.startswith("builtin:")


def test_the_image_has_the_beam_and_python_of_the_tests() -> None:
    import sys

    from apache_beam.version import __version__ as beam_version

    dockerfile = (TEMPLATE / "Dockerfile").read_text()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python == "3.11":
        assert f"FROM python:{python}-slim" in dockerfile
        assert f"apache/beam_python{python}_sdk:{beam_version}" in dockerfile
        assert f"python{python.replace('.', '')}-template-launcher-base" in dockerfile


if __name__ == "__main__":
    METADATA.write_text(text())
    print(METADATA)
