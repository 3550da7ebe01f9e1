"""Decode a frame by the decoder registered for its transfer syntax.

To add a decoder, write a module with `SYNTAXES` and `decode`, and list it in `_FAST_DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs import (
    jpeg2000,
    jpeg_baseline,
    jpeg_lossless,
    native,
    pydicom_fallback,
    rle,
)
from transforms.imaging.codecs.frame import FrameRequest, NoFastPath, StoredFrame

_FAST_DECODERS: Final[dict[str, Callable[[FrameRequest], StoredFrame]]] = {
    syntax: codec.decode
    for codec in (native, jpeg2000, jpeg_baseline, jpeg_lossless, rle)
    for syntax in codec.SYNTAXES
}


def decode_frame(request: FrameRequest) -> tuple[StoredFrame, bool]:
    """Decode a frame at reduced resolution if possible.

    Returns:
        The frame, and whether pydicom decoded it because no fast decoder could.

    Raises:
        InvalidObject: No decoder supports the transfer syntax, or all of them failed.
    """
    decode = _FAST_DECODERS.get(request.transfer_syntax_uid)
    if decode is None:
        return pydicom_fallback.decode(request), True
    try:
        return decode(request), False
    except NoFastPath:
        pass
    try:
        return pydicom_fallback.decode(request), True
    except InvalidObject as error:
        if error.reason is Reason.UNSUPPORTED_SYNTAX:  # the syntax is supported, the stream is not
            raise InvalidObject(Stage.DECODE, Reason.UNDECODABLE_PIXELS) from error
        if request.transfer_syntax_uid in rle.SYNTAXES:
            rle.require_complete(request)
        raise
