"""From an object's bytes to a gray film as a radiologist would see it, no larger than needed.

Standard: PS3.4 N.2 (the transformations and their order), PS3.3 C.11.1 (modality), C.11.2 (VOI).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRBigEndian

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs import full, jpeg, jpeg2000, jpeg_whole, native, rle
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    frame_request,
    undecodable_unless_said,
)
from transforms.imaging.limits import Limits
from transforms.imaging.luts import Values, is_usable, modality, voi_lut, window
from transforms.imaging.part10 import ParsedObject, parse
from transforms.imaging.preprocessing import preprocess

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_FAST: dict[str, Callable[[FrameRequest], StoredFrame]] = {
    syntax: codec.decode
    for codec in (native, jpeg2000, jpeg, jpeg_whole, rle)
    for syntax in codec.SYNTAXES
}


def read_image(
    data: bytes, long_side: int, *, frame_number: int = 1, limits: Limits | None = None
) -> npt.NDArray[np.float32]:
    """Parse an object and return one frame as a film; see `image_of`."""
    limits = limits or Limits()
    return image_of(parse(data, limits), long_side, frame_number=frame_number, limits=limits)[0]


def image_of(
    parsed: ParsedObject, long_side: int, *, frame_number: int = 1, limits: Limits
) -> tuple[npt.NDArray[np.float32], bool]:
    """Return one frame as a film whose long side has at least `long_side` pixels, if it has as many.

    Returns:
        float32[h, w], dense tissue bright, any finite range; padding is darkest. And whether it was
        decoded fast.

    Raises:
        Rejected: the pixels are missing, wrongly described, too many or undecodable.
    """
    with undecodable_unless_said():
        request = frame_request(parsed, frame_number, long_side, limits)
        stored, is_fast = decode_frame(request)
        if stored.values.ndim == 3:
            return stored.values @ LUMA, is_fast
        return _presented(stored, request), is_fast


def thumbnail_of(
    parsed: ParsedObject, size: int, *, frame_number: int = 1, limits: Limits
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Return uint8[1, size, size], the network's input, for a frame; and whether it was decoded fast."""
    image, is_fast = image_of(parsed, size, frame_number=frame_number, limits=limits)
    return preprocess(image, size), is_fast


def decode_frame(request: FrameRequest) -> tuple[StoredFrame, bool]:
    """Decode at reduced resolution where a fast path applies, else whole; say which it was."""
    fast = _FAST.get(request.transfer_syntax_uid)
    if fast is None:
        return full.decode(request), False
    try:
        return fast(request), True
    except NoFastPath:
        pass
    try:
        return full.decode(request), False
    except InvalidObject as rejected:
        if rejected.reason is Reason.UNSUPPORTED_SYNTAX:  # it is read, but not this stream
            raise InvalidObject(Stage.DECODE, Reason.UNDECODABLE_PIXELS) from rejected
        raise


def _presented(stored: StoredFrame, request: FrameRequest) -> npt.NDArray[np.float32]:
    ds = request.dataset
    little_endian = request.transfer_syntax_uid != ExplicitVRBigEndian
    gray = _unless_malformed(lambda values: modality(values, ds, little_endian), stored.values)
    for transform in (
        lambda values: voi_lut(values, ds, little_endian),
        lambda values: window(values, ds),
    ):
        shown = _unless_malformed(transform, gray)
        if shown is not gray:
            gray = shown
            break
    if request.photometric == "MONOCHROME1":
        gray = -gray
    if stored.padding is not None and stored.padding.any() and not stored.padding.all():
        gray = np.where(stored.padding, gray[~stored.padding].min(), gray)
    return gray.astype(np.float32, copy=False)


def _unless_malformed(
    transform: Callable[[Values], Values | None], values: Values
) -> npt.NDArray[np.float32]:
    """Apply a transformation; the same array where there is none, or none that shows anything."""
    try:
        shown = transform(values)
    except MemoryError:
        raise
    except Exception:  # malformed elements raise many types; without them the anatomy still shows
        return values
    return values if shown is None or not is_usable(shown) else shown
