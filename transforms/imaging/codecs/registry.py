"""Decode a frame by the decoder registered for its transfer syntax.

To add a decoder, write a module with `SYNTAXES` and `decode`, and list it in `_FAST_DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs import (
    codestream,
    jpeg2000,
    jpeg_baseline,
    native,
    pydicom_fallback,
    rle,
)
from transforms.imaging.codecs.frame import FrameRequest, NoFastPath, StoredFrame

_Decoder = Callable[[FrameRequest], StoredFrame]
_FAST_DECODERS: Final[dict[str, tuple[_Decoder, ...]]] = {
    **{syntax: (jpeg2000.decode, codestream.decode) for syntax in jpeg2000.SYNTAXES},
    **{syntax: (jpeg_baseline.decode, codestream.decode) for syntax in jpeg_baseline.SYNTAXES},
    **{syntax: (codestream.decode,) for syntax in codestream.SYNTAXES},
    **{syntax: (native.decode,) for syntax in native.SYNTAXES},
    **{syntax: (rle.decode,) for syntax in rle.SYNTAXES},
}
"""Decoders by transfer syntax; the second is for frames that the first does not support."""


def decode_frame(request: FrameRequest) -> tuple[StoredFrame, bool]:
    """Decode a frame at reduced resolution if possible.

    Returns:
        The frame, and whether pydicom decoded it because no fast decoder could.

    Raises:
        InvalidObject: No decoder supports the transfer syntax, or all of them failed.
    """
    decoders = _FAST_DECODERS.get(request.transfer_syntax_uid)
    if decoders is None:
        return pydicom_fallback.decode(request), True
    for decode in decoders:
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
