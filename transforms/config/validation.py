"""Readable messages of pydantic's validation errors."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from transforms.core.errors import did_you_mean

_MESSAGES: Final[dict[str, str]] = {
    "missing": "missing",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be ≥ {ge:g}",
    "less_than": "must be < {lt:g}",
    "less_than_equal": "must be ≤ {le:g}",
    "literal_error": "must be {expected}",
    "string_type": "must be text; put it in quotes",
    "invalid_key": "keys must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}
"""Messages by pydantic's type of the error."""


def list_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Return every error as "path: message"; several stand one a line after their number.

    Args:
        error: raised by a validation of `model`.
        model: names the known keys of sections with an unknown one.
    """
    messages = [_message(one, model) for one in error.errors(include_url=False)]
    lines = messages if len(messages) == 1 else [f"{len(messages)} errors", *messages]
    return "\n  ".join(lines)


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        known = _keys(model, path[:-1])
        near = did_you_mean(str(path[-1]), known)
        what = f"unknown; did you mean {near}?" if near else f"unknown; known: {', '.join(known)}"
    elif error["type"] in _MESSAGES:
        what = _MESSAGES[error["type"]].format(**error.get("ctx", {}))
    else:
        what = error["msg"]
    return f"{_written(path)}: {what}" if path else what


def _written(path: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _keys(model: type[BaseModel], section: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a section may have; the whole file is the empty path."""
    for name in section:
        model = type(model.model_fields[str(name)].get_default(call_default_factory=True))
    return list(model.model_fields)
