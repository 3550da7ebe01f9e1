"""Unique identifiers: checked before any of them becomes part of a path."""

from __future__ import annotations

import re
from typing import Final

from transforms.core.reasons import InvalidObject, Reason, Stage

UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_LENGTH: Final = 64


def is_valid(value: str) -> bool:
    """Whether a string is a UID: digits and single dots, at most 64 characters.

    Standard: PS3.5 section 9.1. Leading zeros in a component, which it forbids but real archives
    hold, are let through: they cannot do harm in a path.
    """
    return len(value) <= MAX_LENGTH and UID.fullmatch(value) is not None and value.isascii()


def require(value: object, keyword: str) -> str:
    """Return a header value as a UID.

    Raises:
        Rejected: it is missing, empty, multi-valued or malformed; the value itself is not said.
    """
    if value is None or value == "":
        raise InvalidObject(Stage.HEADER, Reason.MISSING_UID, keyword)
    if not isinstance(value, str) or not is_valid(value):
        raise InvalidObject(Stage.HEADER, Reason.INVALID_UID, keyword)
    return str(value)
