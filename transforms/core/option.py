"""Declare options once, as fields of a dataclass.

The command line and its help, `docs/options.md`, the parameters of the flex templates, range checks, the
fingerprint of a run and the options in its summary are derived from these declarations.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

_DECLARATION: Final = "declaration"
_IN_FINGERPRINT: Final = "in_fingerprint"


BATCH: Final = "batch"
STREAMING: Final = "streaming"
"""Names of the flex templates of Dataflow."""
EVERY_TEMPLATE: Final = (BATCH, STREAMING)


class Group(StrEnum):
    """Groups of options, in the order of the help."""

    INPUT_OUTPUT = "input and output"
    SELECTION = "which objects"
    DECISION = "what decides"
    LIMITS = "limits on one object"
    SPEED = "speed"
    STREAMING = "streaming sources"
    NETWORK = "network"
    ACCESS = "who may send what"
    TLS = "TLS"
    TRAINING = "training"
    AUGMENTATION = "augmentation"
    RUNNER = "runner"
    MONITORING = "monitoring"
    TERMINAL = "terminal"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The declaration of an option.

    Attributes:
        help: help text.
        group: group in the help.
        flag: name on the command line without leading hyphens; None uses the name of the field.
        metavar: placeholder of the value in the help; None derives it from choices or unit.
        unit: unit of a number: "seconds", "bytes" or "pixels".
        choices: allowed values; empty allows any.
        above: exclusive minimum of a number.
        at_least: inclusive minimum of a number.
        at_most: inclusive maximum of a number.
        default_text: description of a default that is not a constant.
        public: whether the run summary has its value.
        templates: flex templates of which it is a parameter.
        pattern: regular expression for its value in the flex templates; None derives it from choices or
            range.
    """

    help: str
    group: Group
    flag: str | None = None
    metavar: str | None = None
    unit: str | None = None
    choices: tuple[str, ...] = ()
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    default_text: str | None = None
    public: bool = False
    templates: tuple[str, ...] = ()
    pattern: str | None = None

    def problem(self, value: float) -> str | None:
        """Return why a number is out of range, or None."""
        if self.above is not None and not value > self.above:
            return f"must be above {self.above:g}"
        low, high = self.at_least, self.at_most
        if (low is None or value >= low) and (high is None or value <= high):
            return None
        if low is None:
            return f"must be at most {high:g}"
        return f"must be at least {low:g}" if high is None else f"must be in {low:g}..{high:g}"


@dataclass(frozen=True)
class Option:
    """An option of a dataclass.

    Attributes:
        path: names of the fields that lead to it; more than one if dataclasses are nested.
        declaration: declaration of the option.
        kind: type of one value: str, int, float, bool or Path.
        repeated: whether it takes several values.
        default: default value; `MISSING` if the option is required.
    """

    path: tuple[str, ...]
    declaration: Declaration
    kind: type
    repeated: bool
    default: Any

    @property
    def flag(self) -> str:
        """Name on the command line, without leading hyphens."""
        return self.declaration.flag or self.path[-1]

    @property
    def is_required(self) -> bool:
        """Whether the option is required."""
        return self.default is MISSING

    def value_in(self, instance: object) -> Any:
        """Return the value in an instance of the dataclass; None if a nested dataclass is None."""
        for name in self.path:
            instance = None if instance is None else getattr(instance, name)
        return instance

    def problem_in(self, instance: object) -> str | None:
        """Return why the value in an instance of the dataclass is out of range, or None."""
        value = self.value_in(instance)
        if value is None or self.kind not in (int, float):
            return None
        problem = self.declaration.problem(value)
        return f"--{self.flag} {problem}" if problem else None


def option(
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    in_fingerprint: bool = False,
    **declared: Any,
) -> Any:
    """Return a dataclass field that declares an option.

    Args:
        default: default value.
        factory: returns the default value.
        in_fingerprint: whether the value affects decisions or placement, and is in the fingerprint.
        **declared: arguments of `Declaration`.
    """
    metadata = {_DECLARATION: Declaration(**declared), _IN_FINGERPRINT: in_fingerprint}
    return _field(default, factory, metadata)


def fingerprinted(default: Any = MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """Return a dataclass field that is not an option, but is in the fingerprint."""
    return _field(default, factory, {_IN_FINGERPRINT: True})


def _field(default: Any, factory: Callable[[], Any] | None, metadata: dict[str, Any]) -> Any:
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a dataclass and of nested dataclasses, in order of declaration."""
    return tuple(_options_of(cls, ()))


def options_by_group(cls: type) -> dict[Group, list[Option]]:
    """Return the options of a dataclass by group, in the order of the groups."""
    options = options_of(cls)
    by_group = {g: [one for one in options if one.declaration.group is g] for g in Group}
    return {group: of_group for group, of_group in by_group.items() if of_group}


def from_values(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return an instance of a dataclass of options.

    Args:
        cls: the dataclass.
        values: values by flag; an absent option has its default.
    """
    given: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    own = {one.path[0]: one for one in options_of(cls) if len(one.path) == 1}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind, _ = _kind_of(hints[field.name])
        if dataclasses.is_dataclass(kind) and options_of(kind):
            given[field.name] = from_values(kind, values)
        elif field.name in own and own[field.name].flag in values:
            value = values[own[field.name].flag]
            given[field.name] = tuple(value) if own[field.name].repeated else value
    return cls(**given)


def range_problems(instance: object) -> list[str]:
    """Return a message for each option of an instance whose value is out of range."""
    problems = (one.problem_in(instance) for one in options_of(type(instance)))
    return [problem for problem in problems if problem]


def fingerprint_values(instance: Any) -> dict[str, Any]:
    """Return the values of a dataclass that are in the fingerprint, by name of the field."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.metadata.get(_IN_FINGERPRINT):
            values[field.name] = value
        elif dataclasses.is_dataclass(value) and (nested := fingerprint_values(value)):
            values[field.name] = nested
    return values


def _options_of(cls: type, outer: tuple[str, ...]) -> Iterator[Option]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = (*outer, field.name)
        kind, repeated = _kind_of(hints[field.name])
        if declaration := field.metadata.get(_DECLARATION):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            yield Option(path, declaration, kind, repeated, default)
        elif dataclasses.is_dataclass(kind):
            yield from _options_of(kind, path)


def _kind_of(hint: Any) -> tuple[type, bool]:
    """Return the type of one value, and whether the option takes several."""
    arguments = [one for one in typing.get_args(hint) if one is not types.NoneType]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _kind_of(arguments[0])
    if origin is tuple:
        return arguments[0], True
    if origin is typing.Literal:
        return type(arguments[0]), False
    return (hint if isinstance(hint, type) else Path), False
