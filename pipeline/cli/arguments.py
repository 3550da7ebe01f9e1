"""Add declared options to a parser, and read arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transforms.config.run_options import CommandOptions, ObjectOptions, RouteOptions
from transforms.core.option import Option, options_by_group, options_of

if TYPE_CHECKING:
    from transforms.config.policy import Policy
    from transforms.core.labels import LabelSet
    from transforms.lake.layout import Layout

MIB: Final = 1 << 20
GIB: Final = 1 << 30


def add_options(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add the options of a dataclass to a parser, in their groups."""
    for title, options in options_by_group(cls).items():
        group = parser.add_argument_group(title)
        for one in options:
            add_option(group, one)


def add_option(to: argparse._ActionsContainer, one: Option) -> None:
    """Add an option to a parser or a group."""
    declared = one.declaration
    help_text = help_of(one).replace("%", "%%")
    if one.kind is bool:
        to.add_argument(f"--{one.flag}", action="store_true", help=help_text)
        return
    more: dict[str, Any] = {"nargs": "+", "action": "extend"} if one.repeated else {}
    to.add_argument(
        f"--{one.flag}",
        type=_PARSERS.get(one.kind, one.kind),
        required=one.is_required,
        default=_initial(one),
        choices=declared.choices or None,
        metavar=metavar_of(one),
        help=help_text,
        **more,
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    add_option(parser, _OBJECT_OPTIONS["model"])


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    add_option(parser, _OBJECT_OPTIONS["device"])


def add_lock_timeout(parser: argparse.ArgumentParser) -> None:
    """Add --lock_timeout, for a command that takes the locks of a lake."""
    add_option(parser, _ROUTE_OPTIONS["lock_timeout"])


def add_run_options(parser: argparse.ArgumentParser, flags: Collection[str]) -> None:
    """Add some of the options of `route`, in their groups."""
    for title, options in options_by_group(CommandOptions).items():
        chosen = [one for one in options if one.flag in flags]
        if chosen:
            groups = {group.title: group for group in parser._action_groups}
            group = groups.get(title) or parser.add_argument_group(title)
            for one in chosen:
                add_option(group, one)


def help_of(one: Option) -> str:
    """Return the help of an option, with its default."""
    default = default_of(one)
    return f"{one.declaration.help} [default: {default}]" if default else one.declaration.help


def metavar_of(one: Option) -> str:
    """Return the placeholder of an option's value in help and docs."""
    declared = one.declaration
    choices = f"{{{','.join(declared.choices)}}}" if declared.choices else None
    return declared.metavar or choices or (declared.unit or "N").upper()


def default_of(one: Option) -> str | None:
    """Return the default of an option as text for help and docs, or None if it has none."""
    declared = one.declaration
    if declared.default_text:
        return declared.default_text
    if one.is_required or one.default in (None, False, ""):
        return None
    if declared.unit == "bytes" and one.default % MIB == 0:
        large = one.default % GIB == 0
        size = f"{one.default // GIB} GiB" if large else f"{one.default // MIB} MiB"
        return f"{one.default} ({size})"
    return f"{one.default:g}" if isinstance(one.default, float) else str(one.default)


def read_policy(uri: str | None, labels: LabelSet) -> Policy:
    """Return the policy of --policy, or the default one.

    Args:
        uri: path or URI of the file, or None.
        labels: that it may name.

    Raises:
        PolicyError: the file cannot be used.
    """
    from transforms.config.policy import Policy

    if uri is None:
        return Policy()
    from transforms.config.policy_file import PolicyError, parse_policy
    from transforms.config.policy_yaml import MAX_POLICY_BYTES
    from transforms.storage.base import read_whole
    from transforms.storage.schemes import is_local, storage_of

    try:
        if is_local(uri):
            with Path(uri).open("rb") as file:
                data = file.read(MAX_POLICY_BYTES + 1)
        else:
            data = read_whole(storage_of(uri), uri, MAX_POLICY_BYTES)
        return parse_policy(data.decode(), labels)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PolicyError(f"--policy {uri}: cannot be read ({why})") from error
    except PolicyError as error:
        raise PolicyError(f"--policy {uri}: {error}") from error


def lake_and_policy(uri: str, policy: str | None) -> tuple[Layout, Policy]:
    """Return the layout of a lake that exists, with the sinks of --policy, and the policy.

    Raises:
        ConfigError, NotALake, ForeignLake: as `existing_lake`.
        PolicyError: the file cannot be used.
    """
    from transforms.lake.label_sets import read_label_set

    layout = existing_lake(uri)
    found = read_policy(policy, read_label_set(layout))
    layout = replace(
        layout, sinks=found.sinks, by_region=found.by_region, derived=found.derived_roots
    )
    return layout, found


def existing_lake(uri: str) -> Layout:
    """Return the layout of a lake that exists.

    Raises:
        ConfigError: the path or URI is invalid or not a folder.
        NotALake, ForeignLake: as `transforms.lake.marker.require_lake`.
        OSError: it cannot be opened.
    """
    from transforms.config.route_config import ConfigError
    from transforms.lake.layout import Layout
    from transforms.lake.marker import recorded_file_mode, require_lake
    from transforms.storage.local import uri_to_path
    from transforms.storage.schemes import canonical, is_local, root_problem

    if why := root_problem(uri):
        raise ConfigError(f"{uri}: {why}")
    try:
        if is_local(uri) and not uri_to_path(uri).is_dir():
            raise ConfigError(f"{uri}: no such folder; give the root of a lake")
    except PermissionError as error:
        raise PermissionError(
            f"{uri} cannot be opened ({error.strerror}); check the permissions of the folders above it"
        ) from error
    layout = Layout(canonical(uri))
    require_lake(layout)
    return replace(layout, file_mode=recorded_file_mode(layout))


def _initial(one: Option) -> Any:
    """Return the default for argparse, which extends only lists."""
    if one.is_required:
        return None
    return list(one.default) if one.repeated else one.default


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


_PARSERS: Final[dict[type, Any]] = {int: _whole_number, float: _number}
_OBJECT_OPTIONS: Final = {one.flag: one for one in options_of(ObjectOptions)}
_ROUTE_OPTIONS: Final = {one.flag: one for one in options_of(RouteOptions)}
