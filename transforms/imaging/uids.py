"""Validate UIDs before they become part of a path."""

from __future__ import annotations

import re
from typing import Final

from transforms.core.reasons import InvalidObject, Reason, Stage

UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_LENGTH: Final = 64


def is_valid_uid(value: str) -> bool:
    """Return whether a string is a UID: digits and single dots, at most 64 characters.

    Standard: PS3.5 section 9.1, except that leading zeros in a component are accepted: they occur in
    real archives and are harmless in a path.
    """
    return len(value) <= MAX_LENGTH and UID.fullmatch(value) is not None and value.isascii()


def require_uid(value: object, keyword: str) -> str:
    """Return a header value as a UID.

    Raises:
        InvalidObject: The value is missing, empty, multi-valued or malformed. The message names the
            keyword, not the value.
    """
    if value is None or value == "":
        raise InvalidObject(Stage.HEADER, Reason.MISSING_UID, keyword)
    if not isinstance(value, str) or not is_valid_uid(value):
        raise InvalidObject(Stage.HEADER, Reason.INVALID_UID, keyword)
    return str(value)
