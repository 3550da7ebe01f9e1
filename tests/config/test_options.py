"""Every option is declared once, and what is derived from the declarations agrees with them."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipeline.beam_options import BEAM_OPTIONS
from pipeline.cli import COMMANDS, build_parser, command_parser
from pipeline.cli.parser import ALIASES
from pipeline.cli.resolve_config import route_config
from pipeline.runners import RUNNERS
from tests.graphs import config_of, route_parser
from transforms.config.audit_options import AuditOptions
from transforms.config.monitoring_options import MonitoringOptions
from transforms.config.policy import Policy
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.config.run_options import CommandOptions, RouteOptions
from transforms.config.stream_options import StreamConfig
from transforms.core import choices
from transforms.core.option import (
    Declaration,
    Group,
    Option,
    fingerprint_values,
    from_values,
    options_of,
)
from transforms.imaging.limits import Limits
from transforms.lake.layout import Layout

OPTIONS = {one.flag: one for one in options_of(CommandOptions)}
DECISIVE = {"frame", "headers", "placement", "write_sr", *(one.flag for one in options_of(Limits))}
"""Options whose value is in the fingerprint; model, policy and patient key are by their content."""
OF_COMMAND = {
    "runner",
    "quiet",
    "json",
    "report",
    *(one.flag for one in options_of(MonitoringOptions)),
    *(one.flag for one in options_of(AuditOptions)),
}
"""Options of the command, which are not in the configuration of a run."""
RESOLVED: dict[str, Any] = {
    "router_version": "0.0.1",
    "model_id": "another",
    "model_input_size": 1,
    "shadow_model_id": "another",
    "policy": Policy(min_long_side=65),
    "own_policy": Policy(min_long_side=65),
}
"""Another value for each field of a configuration that is in the fingerprint, and is no option."""


def other_value(one: Option) -> Any:
    """A value that an option does not have by default."""
    if one.declaration.choices:
        return one.declaration.choices[-1]
    if one.kind is bool:
        return True
    return one.kind((one.default or 0) + 1 if one.kind in (int, float) else "another")


def changed(config: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return replace(
        config, **{name: changed(getattr(config, name), tuple(rest), value) if rest else value}
    )


def test_flags_are_unique_and_each_has_a_group_and_help() -> None:
    found = options_of(CommandOptions)
    assert len(OPTIONS) == len(found)
    assert all(one.declaration.help and one.declaration.group for one in found)
    assert {one.flag for one in found if one.is_required} == {"input", "lake"}


def test_the_command_line_has_every_option_with_its_default() -> None:
    parsed = vars(route_parser().parse_args(["--input", "a", "b", "--input", "c", "--lake", "d"]))
    assert set(parsed) == set(OPTIONS)
    options = from_values(CommandOptions, parsed)
    assert options.inputs == ("a", "b", "c")
    assert (options.limits, options.stream) == (Limits(), StreamConfig())
    assert options == CommandOptions(inputs=("a", "b", "c"), lake="d")


@pytest.mark.parametrize("flag", sorted(OPTIONS))
def test_every_option_reaches_its_field(flag: str) -> None:
    one = OPTIONS[flag]
    value = other_value(one)
    given = [f"--{flag}"] if one.kind is bool else [f"--{flag}", str(value)]
    required = ["--input", "a", "--lake", "b"]
    options = from_values(CommandOptions, vars(route_parser().parse_args([*required, *given])))
    expected = (*(["a"] if flag == "input" else []), value) if one.repeated else value
    assert one.value_in(options) == expected


@pytest.mark.parametrize("flag", sorted(OPTIONS.keys() - OF_COMMAND))
def test_the_fingerprint_covers_the_options_that_decide_and_no_others(flag: str) -> None:
    config = replace(config_of(), stream=StreamConfig())
    one = OPTIONS[flag]
    if flag == "patient_key_file":  # it is in the fingerprint by the key
        return
    value = (other_value(one),) if one.repeated else other_value(one)
    other = changed(config, one.path, value)
    assert (other.fingerprint() != config.fingerprint()) == (flag in DECISIVE)


def test_the_fingerprint_covers_what_options_are_resolved_to() -> None:
    config = config_of()
    own = {field.name for field in fields(RouteConfig)} - {
        field.name for field in fields(RouteOptions)
    }
    assert own - RESOLVED.keys() == {"run_id", "layout", "started_at", "host"}
    for name, value in RESOLVED.items():
        assert replace(config, **{name: value}).fingerprint() != config.fingerprint(), name
    moved = replace(config, run_id="another", layout=Layout("/moved"))
    assert moved.fingerprint() == config.fingerprint()


def test_the_fingerprint_covers_the_patient_key_and_not_its_file(tmp_path: Path) -> None:
    for name, key in (("a", b"k" * 16), ("b", b"k" * 16), ("c", b"l" * 16)):
        (tmp_path / name).write_bytes(key)
    config = config_of()
    first, same, other = (
        replace(config, patient_key_file=str(tmp_path / name)).fingerprint() for name in "abc"
    )
    assert first == same
    assert len({first, other, config.fingerprint()}) == 3


def test_a_new_field_is_outside_the_fingerprint_until_it_is_declared_in_it() -> None:
    names = set(fingerprint_values(config_of()))
    assert names == {"limits", "frame_number", "placement", "write_sr", "headers", *RESOLVED}


@pytest.mark.parametrize("flag", [f for f, one in OPTIONS.items() if one.declaration.above == 0])
def test_numbers_must_be_above_zero(flag: str) -> None:
    config = replace(config_of("--source=watch", "--allow_empty"), stream=StreamConfig())
    with pytest.raises(ConfigError, match=f"--{flag} must be above 0"):
        changed(config, OPTIONS[flag].path, 0).check()


def test_every_number_has_a_range() -> None:
    numbers = {f: one.declaration for f, one in OPTIONS.items() if one.kind in (int, float)}
    assert not [f for f, of in numbers.items() if of.above is None and of.at_least is None]
    with pytest.raises(ConfigError, match=r"--ack_deadline must be in 10\.\.600"):
        config_of("--source=watch", "--ack_deadline=9").check()


@pytest.mark.parametrize(
    ("bounds", "value", "problem"),
    [
        ({"above": 0}, 0, "must be above 0"),
        ({"at_least": 2}, 1, "must be at least 2"),
        ({"at_most": 2.5}, 3, "must be at most 2.5"),
        ({"at_least": 2, "at_most": 3}, 4, "must be in 2..3"),
        ({"above": 0, "at_most": 3}, 3, None),
        ({}, -1, None),
    ],
)
def test_a_range_names_its_bounds(
    bounds: dict[str, float], value: float, problem: str | None
) -> None:
    declaration = Declaration(help="", group=Group.SPEED, **bounds)  # type: ignore[arg-type]
    assert declaration.problem(value) == problem


def test_options_of_streams_need_a_streaming_source() -> None:
    with pytest.raises(ConfigError, match="--poll_interval needs a streaming source"):
        config_of("--poll_interval=3")
    assert config_of().stream is None
    assert config_of("--source=watch", "--poll_interval=3").stream == StreamConfig(poll_interval=3)


def test_the_summary_shows_public_options_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("min_long_side: 65")
    (tmp_path / "DOE^JOHN").mkdir()
    arguments = ["--input", str(tmp_path / "DOE^JOHN"), "--lake", str(tmp_path / "lake")]
    arguments += ["--policy", str(tmp_path / "policy.yaml")]
    shown = route_config(route_parser().parse_args(arguments)).public()
    assert str(tmp_path) not in json.dumps(shown)
    assert shown["inputs"] == 1
    assert shown["max_pixels"] == Limits().max_pixels
    assert shown["min_long_side"] == 65
    assert len(shown["policy_id"]) == 16
    assert "poll_interval" not in shown
    assert config_of("--source=watch").public()["poll_interval"] == 5.0


def test_the_names_of_runners_and_of_options_of_beam_are_complete() -> None:
    assert set(choices.RUNNERS) == set(RUNNERS)
    parser = _BeamArgumentParser(add_help=False)
    for options in PipelineOptions.__subclasses__():
        if options.__module__.startswith("apache_beam."):
            options._add_argparse_args(parser)
    names = {flag.removeprefix("--").replace("-", "_") for flag in parser._option_string_actions}
    assert names == BEAM_OPTIONS


def test_old_names_lead_to_options_and_are_none_themselves() -> None:
    parser = build_parser(COMMANDS)
    flags = set().union(*(command_parser(parser, command).flags() for command in COMMANDS))
    assert set(ALIASES.values()) <= flags
    assert not set(ALIASES) & flags


def test_a_default_is_missing_only_where_an_option_is_required() -> None:
    assert [f for f, one in OPTIONS.items() if one.default is MISSING] == ["input", "lake"]
