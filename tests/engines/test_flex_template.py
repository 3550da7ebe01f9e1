"""The flex template: its parameters, its launcher and its image."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.flex_template import PARAMETERS, flex_template, pattern_of
from tests.graphs import IN_STORE, config_of

TEMPLATE = Path(__file__).parents[2] / "templates" / "dataflow"


def launcher() -> Any:
    spec = importlib.util.spec_from_file_location("launch", TEMPLATE / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_route_and_dataflow_need_is_required() -> None:
    parameters = json.loads(flex_template())["parameters"]
    needed = {p["name"] for p in parameters if not p["isOptional"]}
    assert needed == {"input", "lake", "sdk_container_image"}


def test_the_launcher_knows_every_flag() -> None:
    flags = {name for name, one in PARAMETERS.items() if one.kind is bool}
    assert flags == {
        "allow_empty",
        "log_uris",
        "no_default_exclude",
        "overrule_people",
        "write_sr",
    }
    assert flags <= launcher().FLAGS


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--allow_empty=true", "--log_uris=false"], ["--allow_empty"]),
        (["--lake=gs://b/true", "--allow_empty"], ["--lake=gs://b/true", "--allow_empty"]),
    ],
)
def test_flags_come_as_words(given: list[str], passed: list[str]) -> None:
    assert list(launcher().arguments(given)) == passed


def test_defaults_match_their_patterns() -> None:
    given = dict(zip([a.removeprefix("--") for a in IN_STORE[::2]], IN_STORE[1::2], strict=True))
    for name, one in PARAMETERS.items():
        pattern, value = pattern_of(one), given.get(name, one.default)
        if pattern and value and name != "model" and one.kind is not bool:
            assert re.fullmatch(pattern, str(value)), name
    assert config_of().model_uri.startswith("builtin:")
