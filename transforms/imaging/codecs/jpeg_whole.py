"""12-bit and lossless JPEG by libjpeg-turbo, JPEG-LS by CharLS: frames decoded whole, then averaged.

These streams have no reduced form. imagecodecs is the fastest kept decoder of each, and the only
permissively licensed one of 12-bit JPEG (process 2 and 4).

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

from transforms.imaging.codecs.area import average_channels
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)
from transforms.imaging.codecs.native import averaged

_DECODE = {
    **dict.fromkeys(
        map(str, (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)), imagecodecs.jpeg8_decode
    ),
    **dict.fromkeys(map(str, (JPEGLSLossless, JPEGLSNearLossless)), imagecodecs.jpegls_decode),
}
SYNTAXES = frozenset(_DECODE)


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a gray or RGB frame.

    Raises:
        NoFastPath: palette, or a stream that this decoder does not read.
    """
    if request.bits_allocated not in (8, 16) or not (request.is_gray or request.samples == 3):
        raise NoFastPath
    frame = encapsulated_frame(request)
    try:
        decoded = _DECODE[request.transfer_syntax_uid](frame)
    except Exception as error:  # each codec has an error type of its own
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
    return averaged(decoded, request)
