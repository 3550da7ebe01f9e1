"""JPEG, JPEG-LS and JPEG 2000 codestreams, decoded at full resolution by imagecodecs, then averaged.

Lossless and 12-bit JPEG and JPEG-LS cannot be decoded at reduced resolution; other codestreams are
decoded here if the reduced decoder does not apply. The codestream, not the transfer syntax, says which
decoder it needs. imagecodecs (libjpeg-turbo, CharLS, OpenJPEG) is the fastest maintained decoder of each,
and the only permissively licensed one of 12-bit JPEG (processes 2 and 4).

Standard: PS3.5 annex A.4.1, A.4.3 and A.4.4; ISO/IEC 10918-1, 14495-1 and 15444-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import imagecodecs
from pydicom.uid import (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from transforms.imaging.codecs.area_average import (
    average,
    clear_unused_bits,
    reduce_gray,
)
from transforms.imaging.codecs.codestream_header import (
    CodestreamHeader,
    Compression,
    read_codestream_header,
)
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

SYNTAXES: Final = frozenset(
    map(
        str,
        (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    )
)
_DECODERS: Final[dict[Compression, Callable[[Any], Any]]] = {
    Compression.JPEG: imagecodecs.jpeg8_decode,
    Compression.JPEG_LS: imagecodecs.jpegls_decode,
    Compression.JPEG_2000: imagecodecs.jpeg2k_decode,
}
_RGB: Final = {
    Compression.JPEG: frozenset({"RGB"}),
    Compression.JPEG_LS: frozenset({"RGB"}),
    Compression.JPEG_2000: frozenset({"RGB", "YBR_RCT", "YBR_ICT"}),  # the decoder converts to RGB
}


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a grayscale or RGB frame.

    Raises:
        NoFastPath: Palette, YBR or DCT-coded color, or a codestream that imagecodecs cannot decode.
    """
    frame, request = encapsulated_frame(request)
    codestream = read_codestream_header(frame)
    if codestream is None or request.bits_allocated > 16 or not _is_supported(codestream, request):
        raise NoFastPath
    try:
        decoded = _DECODERS[codestream.compression](frame)
    except Exception as error:  # each codec has its own error type
        raise NoFastPath from error
    shape = (request.rows, request.columns, 3)[: 2 if request.samples == 1 else 3]
    width = request.bits_allocated // 8
    if decoded.shape != shape or decoded.dtype.itemsize != width:
        raise NoFastPath
    if request.signed:
        decoded = decoded.view(f"i{width}")
    if request.samples == 3:
        return average(clear_unused_bits(decoded, request), request.reduction)
    return reduce_gray(decoded, request)


def _is_supported(codestream: CodestreamHeader, request: FrameRequest) -> bool:
    if request.samples == 1:
        return request.is_gray
    return not codestream.is_dct and request.photometric in _RGB[codestream.compression]
