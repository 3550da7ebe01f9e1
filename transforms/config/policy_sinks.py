"""Validate the sinks of a policy file: roots outside the lake, folders by region, derived objects."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from transforms.config.derivation import Derivation, parse_derivation
from transforms.config.validation import invalid, unknown_name
from transforms.core.labels import OTHER_SINKS
from transforms.storage.schemes import is_local, root_problem

BY_REGION: Final = "region"


class Sink(NamedTuple):
    """Where the objects of a sink are.

    Attributes:
        root: outside the lake, or None for the lake.
        by: "region" for a folder by region, or None.
        derive: how objects are derived from those of the sink, or None.
    """

    root: str | None = None
    by: str | None = None
    derive: Derivation | None = None


def _parse_sink(value: object) -> Sink | None:
    """Return the sink that a root, or a mapping with `root`, `by` and `derive`, describes."""
    if value is None:
        return None
    if not isinstance(value, dict):
        return Sink(_require_text_root(value))
    problems = [
        f"{key}: {unknown_name(str(key), Sink._fields)}" for key in value.keys() - set(Sink._fields)
    ]
    if value.get("by") not in (None, BY_REGION):
        problems.append(f"by: must be {BY_REGION!r}")
    try:
        root = None if value.get("root") is None else _require_text_root(value["root"])
    except PydanticCustomError as error:
        problems.append(f"root: {error.message()}")
    derive = None
    if value.get("derive") is not None:
        derive, found = parse_derivation(value["derive"])
        problems += [f"derive.{problem}" for problem in found]
        if derive is not None and derive.root is not None:
            try:
                _require_root(derive.root)
            except PydanticCustomError as error:
                problems.append(f"derive.root: {error.message()}")
    if problems:
        raise invalid("; ".join(sorted(problems)))
    return Sink(root, value.get("by"), derive)


def _require_text_root(value: object) -> str:
    if not isinstance(value, str):
        raise invalid("must be text; put it in quotes")
    return _require_root(value)


def require_labels_by_region(sinks: dict[str, Sink | None]) -> dict[str, Sink | None]:
    """Return sinks, of which only those of labels may be by region, or have derived objects.

    Raises:
        PydanticCustomError: another one is or has.
    """
    if wrong := [name for name in OTHER_SINKS if (one := sinks.get(name)) and one.by]:
        raise invalid(f"{', '.join(wrong)}: by: only sinks of labels have regions")
    if wrong := [name for name in OTHER_SINKS if (one := sinks.get(name)) and one.derive]:
        raise invalid(f"{', '.join(wrong)}: derive: only sinks of labels have derived objects")
    return sinks


def _require_root(root: str) -> str:
    if is_local(root) and not root.startswith("/"):
        raise invalid("must be an absolute local path, gs:// or s3://")
    if why := root_problem(root):
        raise invalid(why)
    return root


_ROOT_SCHEMA: Final = {"type": "string", "pattern": "^(/|gs://|s3://)"}
SinkValue = Annotated[
    Any,
    PlainValidator(_parse_sink),
    WithJsonSchema(
        {
            "anyOf": [
                _ROOT_SCHEMA,
                {
                    "type": "object",
                    "properties": {
                        "root": _ROOT_SCHEMA,
                        "by": {"const": BY_REGION},
                        "derive": {
                            "type": "object",
                            "properties": {
                                "transform": {"type": "string"},
                                "key_file": {"type": "string"},
                                "root": _ROOT_SCHEMA,
                                "options": {"type": "object"},
                            },
                            "required": ["transform", "key_file"],
                            "additionalProperties": False,
                        },
                    },
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
"""A value of the key `sinks`; validated as a `Sink` or None."""
