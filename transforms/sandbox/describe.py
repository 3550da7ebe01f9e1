"""Describe one object: parse its header and decode its image in a child, and validate the result.

`describe` runs in a child that reads untrusted bytes. They may take it over, so that
`parse_description` accepts only what `describe` could have returned.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NoReturn, get_type_hints

import numpy as np
import numpy.typing as npt

from transforms.core.reasons import (
    EXCLUSIONS,
    QUARANTINE_REASONS,
    InvalidObject,
    Reason,
    Stage,
)
from transforms.core.shared_bytes import map_bytes
from transforms.imaging.header import CODE_STRING, MAX_TEXT, Header, read_header, require_uids
from transforms.imaging.header_json import MAX_JSON, read_json
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import ParsedObject, parse
from transforms.imaging.plates import IMAGES_OF_PLATE
from transforms.imaging.radiograph_table import RadiographTable
from transforms.imaging.read_image import decode_inputs
from transforms.imaging.uids import is_valid_uid

HEADER_BYTES: Final = 4 << 20
"""First bytes of an object over the size limit, in which its header is expected."""
MAX_ID: Final = 1 << 16
"""Maximum length of Patient ID in characters. It is hashed, not stored."""
CODES: Final = frozenset(
    {
        *(
            "body_part_region",
            "coded_region",
            "series_description_region",
            "protocol_name_region",
            "modality",
            "body_part_examined",
            "view_position",
            "laterality",
            "patient_sex",
        ),
        "photometric_interpretation",
    }
)
"""Header values that are Code Strings."""
NOT_RETURNED: Final = frozenset({"image_type", "conversion_type"})
"""Header values that only `describe` uses."""
FIELDS: Final = tuple(f.name for f in fields(Header) if f.name not in NOT_RETURNED)


@dataclass(frozen=True, kw_only=True)
class DescribeOptions:
    """Options of `describe`; nothing confidential.

    Attributes:
        input_size: Side of the network's input in pixels.
        frame_number: Frame of multi-frame objects to decode, from 1.
        limits: Resource limits of the object.
        radiographs: Criteria for projection radiographs.
        header_tags: Tags of the attributes that are returned as JSON; None returns none.
    """

    input_size: int
    frame_number: int
    limits: Limits
    radiographs: RadiographTable
    header_tags: frozenset[int] | None = None


@dataclass(frozen=True)
class Description:
    """What is in an object.

    Attributes:
        header: Header values, as far as the header could be read.
        image: uint8[1 or 3, S, S], the network's inputs, as `plates.network_inputs` returns them; None if
            `reason` is not None.
        stage: Step that excluded the object, or None.
        reason: Why it is no radiograph or is quarantined, or None.
        used_fallback: Whether the image was decoded by the pydicom fallback.
        header_json: What `header_json.read_json` returned, not cleaned yet; or None.
    """

    header: Header
    image: npt.NDArray[np.uint8] | None = None
    stage: Stage | None = None
    reason: Reason | None = None
    used_fallback: bool = False
    header_json: str | None = None


def describe(descriptor: int, options: DescribeOptions) -> tuple[Any, ...]:
    """Parse and decode one object; runs in a child.

    Args:
        descriptor: File descriptor of the object's bytes.
        options: Options of the run.

    Returns:
        The values of `Description`, for `parse_description`.
    """
    header, header_json = Header(), None
    try:
        parsed = parse(map_bytes(descriptor), options.limits)
        header = read_header(parsed)
        require_uids(parsed)
        header_json = _header_json(parsed, options)
        if reason := _exclusion_reason(header, options):
            return _values(header, Stage.HEADER, reason, header_json)
        image, used_fallback = decode_inputs(
            parsed, options.input_size, frame_number=options.frame_number, limits=options.limits
        )
        return _header_values(header), image.tobytes(), None, None, used_fallback, header_json
    except InvalidObject as error:
        return _values(header, error.stage, error.reason, header_json)
    except MemoryError:
        return _values(header, Stage.DECODE, Reason.TOO_MUCH_MEMORY, header_json)
    except Exception:  # one object must never stop the others
        return _values(header, Stage.HEADER, Reason.UNREADABLE_HEADER, header_json)


def describe_header(descriptor: int, options: DescribeOptions) -> tuple[Any, ...]:
    """Describe an object over the size limit by its first bytes; runs in a child.

    Args:
        descriptor: File descriptor of the object's first `HEADER_BYTES`.
        options: Options of the run.

    Returns:
        As `describe`: why it is no radiograph, if the header shows it, else that it is too large.
    """
    with contextlib.suppress(Exception):  # one object must never stop the others
        parsed = parse(map_bytes(descriptor), options.limits, is_complete=False)
        header = read_header(parsed)
        require_uids(parsed)
        if reason := _exclusion_reason(header, options):
            return _values(header, Stage.HEADER, reason, _header_json(parsed, options))
    return _values(Header(), Stage.FETCH, Reason.TOO_LARGE)


def _header_json(parsed: ParsedObject, options: DescribeOptions) -> str | None:
    if options.header_tags is None:
        return None
    return read_json(parsed.dataset, options.header_tags)


def _exclusion_reason(header: Header, options: DescribeOptions) -> Reason | None:
    return options.radiographs.exclusion_reason(
        header.sop_class_uid,
        header.modality,
        header.image_type,
        conversion_type=header.conversion_type,
        is_image=bool(header.rows and header.columns),
    )


def parse_description(value: Any, options: DescribeOptions) -> Description:
    """Return the description in what `describe` has returned.

    Raises:
        ValueError: `describe` cannot have returned it.
    """
    if type(value) is not tuple or len(value) != 6:
        _refuse("description")
    header_values, image, stage, reason, used_fallback, header_json = value
    if type(used_fallback) is not bool:
        _refuse("used_fallback")
    if header_json is not None and (type(header_json) is not str or len(header_json) > MAX_JSON):
        _refuse("header_json")
    found = _parse_outcome(header_values, image, stage, reason, options)
    return replace(found, used_fallback=used_fallback, header_json=header_json)


def _parse_outcome(
    header_values: Any, image: Any, stage: Any, reason: Any, options: DescribeOptions
) -> Description:
    header = _parse_header(header_values)
    if (stage is None) != (reason is None) or (image is None) != (stage is not None):
        _refuse("outcome")
    if stage is not None and Reason(reason) in QUARANTINE_REASONS:
        return Description(header, None, Stage(stage), Reason(reason))
    for name in ("sop_instance_uid", "series_instance_uid", "study_instance_uid"):
        if getattr(header, name) is None:
            _refuse(name)
    if stage is not None:
        if Reason(reason) not in EXCLUSIONS:
            _refuse("reason")
        return Description(header, None, Stage(stage), Reason(reason))
    size = options.input_size
    if type(image) is not bytes or len(image) not in (size * size, IMAGES_OF_PLATE * size * size):
        _refuse("image")
    pixels = np.frombuffer(image, np.uint8).reshape(-1, size, size).copy()  # writable
    return Description(header, pixels)


def _values(
    header: Header, stage: Stage, reason: Reason, header_json: str | None = None
) -> tuple[Any, ...]:
    return _header_values(header), None, str(stage), str(reason), False, header_json


def _header_values(header: Header) -> tuple[Any, ...]:
    if header.patient_id is not None:
        header = replace(header, patient_id=header.patient_id[:MAX_ID])
    return tuple(getattr(header, name) for name in FIELDS)


def _parse_header(values: Any) -> Header:
    if type(values) is not tuple or len(values) != len(FIELDS):
        _refuse("header")
    for value, (name, is_valid) in zip(values, _VALIDATORS, strict=True):
        if value is not None and not is_valid(value):
            _refuse(name)
    return Header(**dict(zip(FIELDS, values, strict=True)))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"invalid answer: {name}")


def _is_text(value: Any, maximum: int = MAX_TEXT) -> bool:
    return type(value) is str and 0 < len(value) <= maximum and value.isprintable()


def _validator(name: str, hint: Any) -> Callable[[Any], bool]:
    """Return a function that validates the values of a field of `Header` that are not None."""
    if name.endswith("_uid"):
        return lambda value: type(value) is str and is_valid_uid(value)
    if name in CODES:
        return lambda value: type(value) is str and CODE_STRING.fullmatch(value) is not None
    if name == "patient_id":
        return lambda value: _is_text(value, MAX_ID)
    validators: dict[Any, Callable[[Any], bool]] = {
        str | None: _is_text,
        int | None: lambda value: type(value) is int and 0 <= value < 2**31,
        float | None: lambda value: type(value) is float and math.isfinite(value),
    }
    return validators[hint]


_HINTS: Final = get_type_hints(Header)
_VALIDATORS: Final = [(name, _validator(name, _HINTS[name])) for name in FIELDS]
