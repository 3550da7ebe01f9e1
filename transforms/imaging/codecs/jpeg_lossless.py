"""Lossless and 12-bit JPEG and JPEG-LS, decoded at full resolution by imagecodecs, then averaged.

These codestreams cannot be decoded at reduced resolution. imagecodecs (libjpeg-turbo,
CharLS) is the fastest maintained decoder of each, and the only permissively licensed one of 12-bit JPEG
(processes 2 and 4).

Standard: PS3.5 annex A.4.1 and A.4.3; ISO/IEC 10918-1, ISO/IEC 14495-1.
"""

from __future__ import annotations

import imagecodecs
from pydicom.uid import (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from transforms.imaging.codecs.area_average import average_channels, reduce_gray
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

_DECODE = {
    **dict.fromkeys(
        map(str, (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)), imagecodecs.jpeg8_decode
    ),
    **dict.fromkeys(map(str, (JPEGLSLossless, JPEGLSNearLossless)), imagecodecs.jpegls_decode),
}
SYNTAXES = frozenset(_DECODE)


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a grayscale or RGB frame.

    Raises:
        NoFastPath: Palette or YBR color, or a codestream that imagecodecs cannot decode.
    """
    if request.bits_allocated not in (8, 16) or not (request.is_gray or request.samples == 3):
        raise NoFastPath
    frame = encapsulated_frame(request)
    try:
        decoded = _DECODE[request.transfer_syntax_uid](frame)
    except Exception as error:  # each codec has its own error type
        raise NoFastPath from error
    if decoded.dtype.kind != "u" or decoded.shape[:2] != (request.rows, request.columns):
        raise NoFastPath
    if request.samples == 3:
        if decoded.shape != (request.rows, request.columns, 3) or request.photometric != "RGB":
            raise NoFastPath
        return average_channels(decoded, request.reduction)
    if decoded.ndim != 2:
        raise NoFastPath
    if request.signed:
        width = request.bits_allocated // 8
        decoded = decoded.astype(f"u{width}").view(f"i{width}")
    return reduce_gray(decoded, request)
