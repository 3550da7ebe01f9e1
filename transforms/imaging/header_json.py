"""A header in the DICOM JSON Model (PS3.18 annex F), of allow-listed attributes with valid values alone.

`read_json` runs where the object is parsed. What it returns may be anything that the object made of
that process, so that `clean` accepts allowed attributes with values that their VR can have (PS3.5
section 6.2).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from transforms.imaging.header import CODE_STRING, MAX_TEXT
from transforms.imaging.header_attributes import hashed_tags
from transforms.imaging.uids import is_valid_uid

MAX_JSON: Final = 1 << 18
"""Maximum length of a header in characters."""
MAX_VALUES: Final = 64
"""Maximum number of values of an attribute, and of items of a sequence."""
MAX_DEPTH: Final = 4
Hash = Callable[[str], str]
"""A keyed hash of an identifier."""
_CODE: Final = re.compile(r"[A-Za-z0-9.^_-]{1,16}")
_CODE_TAGS: Final = frozenset({0x00080100, 0x00080102, 0x00080103, 0x00281054})
"""Code Value, Coding Scheme Designator and Version, and Rescale Type: texts that have no blanks."""
_TAG: Final = re.compile(r"[0-9A-F]{8}")
_NUMBERS: Final = frozenset("DS FD FL IS SL SS UL US".split())
_PATTERNS: Final = {
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "AT": _TAG,
    "CS": CODE_STRING,
    "DA": re.compile(r"[0-9]{8}"),
    "DT": re.compile(r"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})?"),
    "TM": re.compile(r"[0-9]{2,6}(\.[0-9]{1,6})?"),
}
_TEXTS: Final = ("LO", "SH")
_AMBIGUOUS: Final = {"US or SS": ("US", "SS")}
"""VRs of PS3.6 that depend on other elements."""


def read_json(ds: Dataset, allowed: frozenset[int]) -> str | None:
    """Return the allowed attributes of a data set as JSON, for `clean`; None if they are too many.

    An attribute that pydicom cannot read is left out.
    """
    text = json.dumps(_read(ds, allowed, 0), separators=(",", ":"))
    return text if len(text) <= MAX_JSON else None


def clean(text: str, allowed: frozenset[int], hash_identifier: Hash | None) -> str:
    """Return a header with those of its attributes that are allowed and have valid values.

    Args:
        text: from `read_json`.
        allowed: tags.
        hash_identifier: hashes the values of `HASHED`; None leaves them out.

    Raises:
        ValueError: `read_json` cannot have returned it.
    """
    if len(text) > MAX_JSON:
        raise ValueError("header is too long")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("header is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("header is not a JSON object")
    cleaned = _clean(found, allowed, hash_identifier, 0)
    return json.dumps(cleaned, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _read(ds: Dataset, allowed: frozenset[int], depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for tag in allowed:
        if tag not in ds:
            continue
        try:
            element = ds[tag]
            vr = str(element.VR)
            if vr == "SQ":
                if depth < MAX_DEPTH:
                    items = [_read(item, allowed, depth + 1) for item in element.value[:MAX_VALUES]]
                    values[f"{tag:08X}"] = {"vr": vr, "Value": items}
            else:
                found = element.value
                several = found if isinstance(found, MultiValue | list | tuple) else [found]
                plain = [_plain(vr, one) for one in list(several)[:MAX_VALUES]]
                values[f"{tag:08X}"] = {"vr": vr, "Value": plain}
        except MemoryError:
            raise
        except Exception:  # pydicom raises many types for malformed elements
            continue
    return values


def _plain(vr: str, value: Any) -> Any:
    """Return a value of pydicom as JSON has it."""
    if value is None or value == "":
        return None
    if vr == "IS":
        return int(value)
    if vr in _NUMBERS:
        return int(value) if isinstance(value, int) else float(value)
    return f"{value:08X}" if vr == "AT" else str(value).strip(" \0")


def _clean(
    found: dict[Any, Any], allowed: frozenset[int], hash_identifier: Hash | None, depth: int
) -> dict[str, Any]:
    cleaned = {}
    for name, element in found.items():
        if not _TAG.fullmatch(name) or not isinstance(element, dict):
            continue
        tag = int(name, 16)
        vr, values = element.get("vr"), element.get("Value")
        if tag not in allowed or not isinstance(values, list) or len(values) > MAX_VALUES:
            continue
        expected = dictionary_VR(tag)
        if vr not in _AMBIGUOUS.get(expected, (expected,)):
            continue
        if vr == "SQ":
            if depth < MAX_DEPTH and all(isinstance(one, dict) for one in values):
                items = [_clean(one, allowed, hash_identifier, depth + 1) for one in values]
                cleaned[f"{tag:08X}"] = {"vr": vr, "Value": items}
            continue
        valid = _valid_values(tag, str(vr), values, hash_identifier)
        if valid:
            cleaned[f"{tag:08X}"] = {"vr": vr, "Value": valid}
    return cleaned


def _valid_values(
    tag: int, vr: str, values: list[Any], hash_identifier: Hash | None
) -> list[Any] | None:
    """Return the values of an attribute, or None if one is invalid; null stands for an empty one."""
    if all(one is None for one in values):
        return None
    if not all(one is None or _is_valid(tag, vr, one) for one in values):
        return None
    if tag not in hashed_tags():
        return values
    if hash_identifier is None:
        return None
    return [None if one is None else hash_identifier(str(one)) for one in values]


def _is_valid(tag: int, vr: str, value: Any) -> bool:
    if vr in _NUMBERS:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    if type(value) is not str:
        return False
    if vr == "UI":
        return is_valid_uid(value)
    if tag in _CODE_TAGS:
        return _CODE.fullmatch(value) is not None
    if pattern := _PATTERNS.get(vr):
        return pattern.fullmatch(value) is not None
    return vr in _TEXTS and 0 < len(value) <= MAX_TEXT and value.isprintable()
