"""Format pydantic's validation errors for users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

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
"""Message by pydantic's type of error."""
_KEY: Final = "[key]"
"""Last part of the path of an error about the key of a mapping."""
MAX_LISTED: Final = 50
MAX_PATH, MAX_MESSAGE = 100, 300
"""Maximum lengths in characters: of a path, which has keys of the file, and of a message."""


def list_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the errors, each as "path: message"; several errors are on lines after their number.

    Args:
        error: error of validating a `model`.
        model: the model, whose keys are listed or suggested for an unknown key.
    """
    errors = error.errors(include_url=False, include_input=False)
    messages = [_message(details, model)[:MAX_MESSAGE] for details in errors[:MAX_LISTED]]
    if more := len(errors) - len(messages):
        messages.append(f"and {more} more")
    lines = messages if len(errors) == 1 else [f"{len(errors)} errors", *messages]
    return "\n  ".join(lines)


def invalid(text: str) -> PydanticCustomError:
    """Return the error for a validator to raise; the path of the value is added to the text."""
    return PydanticCustomError("problem", "{problem}", {"problem": text})


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Return the message for an unknown name: the nearest known one, or all of them."""
    near = did_you_mean(name[:MAX_MESSAGE], known)
    return f"unknown; did you mean {near}?" if near else f"unknown; known: {', '.join(known)}"


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    path = error["loc"]
    is_key = path[-1:] == (_KEY,)
    if is_key:
        path = path[:-1]
    if is_key and error["type"] == "string_type":
        text = _MESSAGES["invalid_key"]
    elif error["type"] == "extra_forbidden":
        known = _keys(model, path[:-1])
        text = unknown_name(str(path[-1]), known)
    elif error["type"] in _MESSAGES:
        text = _MESSAGES[error["type"]].format(**error.get("ctx", {}))
    else:
        text = error["msg"]
    return f"{_format_path(path)}: {text}" if path else text


def _format_path(path: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    text = text.removeprefix(".")
    return text if len(text) <= MAX_PATH else text[:MAX_PATH] + "…"


def _keys(model: type[BaseModel], section: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of a section, given by its path; the path of the whole file is empty."""
    for name in section:
        if field := model.model_fields.get(
            str(name)
        ):  # else a position in a list, or a key of a mapping
            model = _model_in(field.annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in the type of a field: of a section, of an optional one or of a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
