"""Decode the image of a stored object for a viewer, in a child process, and validate the result.

As in `describe`, the bytes of the object may control the child: `_parse` accepts only what `_decode` can
have returned.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from transforms.core.reasons import QUARANTINE_REASONS, Reason
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.imaging.display_image import DisplayImage, decode_display_image
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.render import reason_of, with_object

MAX_LONG_SIDE: Final = 8192
"""Maximum of `DisplayOptions.long_side`, which limits what a child may answer."""
MAX_ASPECT: Final = 10
"""Maximum ratio by which square pixels make an image larger; see `imaging.pixel_aspect`."""
LEVEL_BYTES: Final = 2


@dataclass(frozen=True, kw_only=True)
class DisplayOptions:
    """Options of `display`.

    Attributes:
        long_side: maximum long side of the image in pixels, at most `MAX_LONG_SIDE`; a larger image is
            averaged.
        frame_number: frame of multi-frame objects, from 1; the last one if there are fewer.
        sha256: sha256 of the object, hex; None accepts any bytes.
        limits: resource limits of the object.
    """

    long_side: int
    frame_number: int = 1
    sha256: str | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def max_answer_bytes(self) -> int:
        """Maximum length of the child's answer."""
        pixels = min(MAX_ASPECT * self.limits.max_pixels, min(self.long_side, MAX_LONG_SIDE) ** 2)
        return LEVEL_BYTES * pixels + (1 << 16)


def display(uri: str, options: DisplayOptions, child: SandboxProcess) -> DisplayImage | Reason:
    """Return the image of a stored object before windowing, or why it cannot be shown.

    Args:
        uri: path or URI of the object.
        options: what to decode.
        child: process that parses and decodes. It may be used by one thread at a time.

    Returns:
        The image; `Reason.CHANGED` if the object has another sha256.
    """

    def decode(data: SharedBytes) -> DisplayImage | Reason:
        with data.read_only() as descriptor:
            image: DisplayImage | Reason = child.call(
                _decode,
                options,
                descriptor=descriptor,
                parse=_parse,
                max_answer_bytes=options.max_answer_bytes,
            )
        return image

    return with_object(uri, options.limits, decode, sha256=options.sha256)


def _decode(descriptor: int, options: DisplayOptions) -> dict[str, Any]:
    """Return the values of a `DisplayImage`, or a reason, for `_parse`; runs in a child."""
    try:
        parsed = parse(map_bytes(descriptor), options.limits)
        image = decode_display_image(
            parsed, options.long_side, frame_number=options.frame_number, limits=options.limits
        )
    except Exception as error:  # one object must never stop the others
        return {"reason": str(reason_of(error))}
    rows, columns = image.levels.shape
    levels = image.levels.astype("<u2").tobytes()
    return {**asdict(image), "levels": levels, "rows": rows, "columns": columns}


def _parse(value: Any) -> DisplayImage | Reason:
    """Return the image in what `_decode` has returned, or why there is none.

    Raises:
        ValueError: `_decode` cannot have returned it.
    """
    if type(value) is not dict:
        raise ValueError("not an image")
    if value.keys() == {"reason"}:
        if Reason(value["reason"]) not in QUARANTINE_REASONS:
            raise ValueError("not a reason to have no image")
        return Reason(value["reason"])
    numbers = ("slope", "intercept", "low", "high")
    counts = ("rows", "columns", "full_long_side")
    if value.keys() != {"levels", *numbers, *counts}:
        raise ValueError("not an image")
    if not all(type(value[name]) is int and 0 < value[name] < 1 << 31 for name in counts):
        raise ValueError("not a size")
    if not all(type(value[name]) is float and math.isfinite(value[name]) for name in numbers):
        raise ValueError("not a window")
    if not value["slope"] or value["low"] >= value["high"]:
        raise ValueError("not a window")
    levels, shape = value["levels"], (value["rows"], value["columns"])
    if type(levels) is not bytes or len(levels) != LEVEL_BYTES * shape[0] * shape[1]:
        raise ValueError("not the pixels of an image")
    return DisplayImage(
        np.frombuffer(levels, "<u2").reshape(shape),
        slope=value["slope"],
        intercept=value["intercept"],
        low=value["low"],
        high=value["high"],
        full_long_side=value["full_long_side"],
    )
