"""The full decode of any frame by pydicom and its codec plug-ins, then area averaging."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options

from transforms.imaging.codecs.area import average, padding_range
from transforms.imaging.codecs.frame import (
    FrameRequest,
    StoredFrame,
    encapsulated_frame,
    undecodable_unless_said,
)
from transforms.reasons import Reason, Rejected, Stage


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a frame; colour as RGB.

    Raises:
        Rejected: no codec reads the syntax, every codec failed, or the pixel data ends early.
    """
    try:
        decoder = get_decoder(request.transfer_syntax_uid)
    except NotImplementedError as error:
        raise Rejected(Stage.DECODE, Reason.UNSUPPORTED_SYNTAX) from error
    if not decoder.is_available:
        raise Rejected(Stage.DECODE, Reason.UNSUPPORTED_SYNTAX)
    value = request.pixels.value
    if request.pixels.encapsulated:
        encapsulated_frame(request)  # checks the stream's own size
    else:
        wanted = request.rows * request.columns * request.samples * request.frames
        if (
            len(value) * 8 < wanted * request.bits_allocated
            and request.photometric != "YBR_FULL_422"
        ):
            raise Rejected(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    options = as_pixel_options(
        request.dataset,
        number_of_frames=request.frames,
        samples_per_pixel=request.samples,
        bits_stored=request.bits_stored,
        photometric_interpretation=request.photometric,
        pixel_representation=int(request.signed),
        pixel_keyword="PixelData",
    )
    source = BytesIO(value) if request.pixels.encapsulated else bytes(value)
    with undecodable_unless_said():
        stored, _ = decoder.as_array(source, index=request.index, raw=False, **options)
        if request.photometric == "PALETTE COLOR":
            stored = apply_color_lut(stored, request.dataset)
    if stored.ndim == 3:
        channels = [average(stored[..., c], request.reduction, None).values for c in range(3)]
        return StoredFrame(np.stack(channels, axis=-1))
    return average(stored, request.reduction, padding_range(request.dataset))
