"""Decode any frame at full resolution by pydicom and its plug-ins, then average it.

Used if no fast decoder supports the frame.
"""

from __future__ import annotations

import contextlib
import functools

from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs.area_average import (
    average,
    clear_unused_bits,
    reduce_gray,
)
from transforms.imaging.codecs.frame import (
    PALETTE,
    FrameRequest,
    StoredFrame,
    encapsulated_frame,
    wrap_decoder_errors,
)

GDCM = "gdcm"
RAW_COLORS = frozenset({"RGB", "YBR_FULL"})


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a frame; color as RGB.

    Raises:
        InvalidObject: No plug-in supports the transfer syntax, every plug-in failed, or the pixel data
            is truncated.
    """
    try:
        decoder = _decoder(request.transfer_syntax_uid)
    except NotImplementedError as error:
        raise InvalidObject(Stage.DECODE, Reason.UNSUPPORTED_SYNTAX) from error
    if not decoder.is_available:
        raise InvalidObject(Stage.DECODE, Reason.UNSUPPORTED_SYNTAX)
    frames, index = request.frames, request.index
    if request.pixels.encapsulated:
        # A frame on its own, because pydicom relies on offset tables and on Number of Frames.
        frame, request = encapsulated_frame(request)
        source, frames, index = encapsulate([bytes(frame)], has_bot=False), 1, 0
    else:
        source = bytes(request.pixels.value)
        expected = request.rows * request.columns * request.samples * frames
        if (
            len(source) * 8 < expected * request.bits_allocated
            and request.photometric != "YBR_FULL_422"
        ):
            raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    # Unused bits must be cleared before colors are converted; Y of YBR_FULL is luma.
    is_raw = request.bits_stored < request.bits_allocated and request.photometric in RAW_COLORS
    options = as_pixel_options(
        request.dataset,
        number_of_frames=frames,
        samples_per_pixel=request.samples,
        bits_allocated=request.bits_allocated,
        bits_stored=request.bits_stored,
        photometric_interpretation=request.photometric,
        pixel_representation=int(request.signed),
        planar_configuration=_planar_configuration(request),
        pixel_keyword="PixelData",
        pixel_vr=request.pixels.vr,
        correct_unused_bits=False,
    )
    options.pop("extended_offsets", None)
    with wrap_decoder_errors():
        stored, _ = decoder.as_array(source, index=index, raw=is_raw, **options)
        if is_raw or request.photometric == PALETTE:
            stored = clear_unused_bits(stored, request)
        if request.photometric == PALETTE:
            stored = apply_color_lut(stored, request.dataset)
        elif is_raw and request.photometric != "RGB":
            stored = stored[..., :1].repeat(3, axis=-1)
    if stored.ndim == 3 or request.bits_allocated == 1:
        return average(stored, request.reduction)
    return reduce_gray(stored, request)


def _planar_configuration(request: FrameRequest) -> int:
    """Return Planar Configuration (0028,0006); 0 if it is missing or invalid, and for codestreams."""
    if request.pixels.encapsulated:
        return 0
    return int(request.dataset.get("PlanarConfiguration") == 1)


@functools.cache
def _decoder(transfer_syntax_uid: str) -> Decoder:
    """Return the decoder of a transfer syntax without GDCM, which aborts on malformed codestreams."""
    decoder = get_decoder(transfer_syntax_uid)
    with contextlib.suppress(ValueError):  # not installed, or already removed by another thread
        decoder.remove_plugin(GDCM)
    return decoder
