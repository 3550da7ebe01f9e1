"""12-bit and lossless JPEG by libjpeg-turbo, JPEG-LS by CharLS: gray frames, whole, then averaged.

These streams have no reduced form. imagecodecs is the fastest kept decoder of each, and the only
permissively licensed one of 12-bit JPEG (process 2 and 4).

Standard: PS3.5 annex A.4.1 and A.4.3; ISO/IEC 10918-1, ISO/IEC 14495-1.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.uid import (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from transforms.imaging.codecs.area import average, padding_range
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)
from transforms.imaging.codecs.native import clear_unused_bits

_DECODE = {
    **dict.fromkeys(
        map(str, (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)), imagecodecs.jpeg8_decode
    ),
    **dict.fromkeys(map(str, (JPEGLSLossless, JPEGLSNearLossless)), imagecodecs.jpegls_decode),
}
SYNTAXES = frozenset(_DECODE)


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a gray frame.

    Raises:
        NoFastPath: colour, or a stream that this decoder does not read.
    """
    if not request.is_gray or request.bits_allocated not in (8, 16):
        raise NoFastPath
    frame = encapsulated_frame(request)
    try:
        decoded = _DECODE[request.transfer_syntax_uid](frame)
    except Exception as error:  # each codec has an error type of its own
        raise NoFastPath from error
    if decoded.shape != (request.rows, request.columns) or decoded.dtype.kind != "u":
        raise NoFastPath
    if request.signed:
        decoded = decoded.astype(f"u{request.bits_allocated // 8}").view(
            f"i{request.bits_allocated // 8}"
        )
    stored = clear_unused_bits(np.ravel(decoded), request).reshape(decoded.shape)
    return average(stored, request.reduction, padding_range(request.dataset))
