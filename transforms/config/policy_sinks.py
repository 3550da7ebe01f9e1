"""Validate the sinks of a policy file: roots outside the lake, and folders by region."""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from transforms.config.validation import invalid, unknown_name
from transforms.core.labels import OTHER_SINKS
from transforms.storage.schemes import is_local, root_problem

BY_REGION: Final = "region"


class Sink(NamedTuple):
    """Where the objects of a sink are.

    Attributes:
        root: outside the lake, or None for the lake.
        by: "region" for a folder by region, or None.
    """

    root: str | None = None
    by: str | None = None


def _parse_sink(value: object) -> Sink | None:
    """Return the sink that a root, or a mapping with `root` and `by`, describes."""
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
    if problems:
        raise invalid("; ".join(sorted(problems)))
    return Sink(root, value.get("by"))


def _require_text_root(value: object) -> str:
    if not isinstance(value, str):
        raise invalid("must be text; put it in quotes")
    return _require_root(value)


def require_labels_by_region(sinks: dict[str, Sink | None]) -> dict[str, Sink | None]:
    """Return sinks, of which only those of labels may be by region.

    Raises:
        PydanticCustomError: another one is.
    """
    if wrong := [name for name in OTHER_SINKS if (one := sinks.get(name)) and one.by]:
        raise invalid(f"{', '.join(wrong)}: by: only sinks of labels have regions")
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
                    "properties": {"root": _ROOT_SCHEMA, "by": {"const": BY_REGION}},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
"""A value of the key `sinks`; validated as a `Sink` or None."""
