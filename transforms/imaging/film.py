"""From an object's bytes to a gray film as a radiologist would see it, no larger than needed.

Standard: PS3.4 N.2 (the transformations and their order), PS3.3 C.11.1 (modality), C.11.2 (VOI).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from transforms.imaging.codecs import full, jpeg, jpeg2000, jpeg_whole, native
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    frame_request,
    undecodable_unless_said,
)
from transforms.imaging.limits import Limits
from transforms.imaging.network_input import network_input
from transforms.imaging.part10 import ParsedObject, parse

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_FAST: dict[str, Callable[[FrameRequest], StoredFrame]] = {
    syntax: codec.decode
    for codec in (native, jpeg2000, jpeg, jpeg_whole)
    for syntax in codec.SYNTAXES
}


def read_film(
    data: bytes, long_side: int, *, frame_number: int = 1, limits: Limits | None = None
) -> npt.NDArray[np.float32]:
    """Parse an object and return one frame as a film; see `film_of`."""
    limits = limits or Limits()
    return film_of(parse(data, limits), long_side, frame_number=frame_number, limits=limits)


def film_of(
    parsed: ParsedObject, long_side: int, *, frame_number: int = 1, limits: Limits
) -> npt.NDArray[np.float32]:
    """Return one frame as a film whose long side has at least `long_side` pixels, if it has as many.

    Returns:
        float32[h, w], dense tissue bright, any finite range; padding is darkest.

    Raises:
        Rejected: the pixels are missing, wrongly described, too many or undecodable.
    """
    with undecodable_unless_said():
        request = frame_request(parsed, frame_number, long_side, limits)
        stored, _ = decode_frame(request)
        if stored.values.ndim == 3:
            return stored.values @ LUMA
        return _presented(stored, request)


def thumbnail_of(
    parsed: ParsedObject, size: int, *, frame_number: int = 1, limits: Limits
) -> npt.NDArray[np.uint8]:
    """Return uint8[1, size, size], the network's input, for one frame."""
    film = film_of(parsed, size, frame_number=frame_number, limits=limits)
    return network_input(film, size)


def decode_frame(request: FrameRequest) -> tuple[StoredFrame, bool]:
    """Decode at reduced resolution where a fast path applies, else whole; say which it was."""
    fast = _FAST.get(request.transfer_syntax_uid)
    if fast is not None:
        try:
            return fast(request), True
        except NoFastPath:
            pass
    return full.decode(request), False


def _presented(stored: StoredFrame, request: FrameRequest) -> npt.NDArray[np.float32]:
    gray = _with_voi(_with_modality(stored.values, request), request.dataset)
    if request.photometric == "MONOCHROME1":
        gray = -gray
    if stored.padding is not None and stored.padding.any() and not stored.padding.all():
        gray = np.where(stored.padding, gray[~stored.padding].min(), gray)
    return gray.astype(np.float32, copy=False)


def _with_modality(
    values: npt.NDArray[np.float32], request: FrameRequest
) -> npt.NDArray[np.float32]:
    ds = request.dataset
    try:
        if ds.get("ModalityLUTSequence"):
            dtype = np.int32 if request.signed else np.uint32
            values = values.round().astype(dtype)
        return _finite(apply_modality_lut(values, ds), values)
    except Exception:  # a malformed LUT: the stored values still show the anatomy
        return values


def _with_voi(values: npt.NDArray[np.float32], ds: Dataset) -> npt.NDArray[np.float32]:
    """Apply the first VOI LUT or window, unless it is malformed or leaves nothing to see."""
    try:
        has_lut = bool(ds.get("VOILUTSequence"))
        if not has_lut and ds.get("WindowCenter") is None:
            return values
        shown = _finite(
            apply_voi_lut(values.round().astype(np.int32) if has_lut else values, ds), values
        )
    except Exception:  # a malformed LUT or window raises many types
        return values
    return values if shown.min() == shown.max() else shown


def _finite(
    changed: npt.NDArray[np.generic], before: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    result = changed.astype(np.float32)
    return result if np.isfinite(result).all() else before.astype(np.float32)
