"""Baseline JPEG gray frames by scaled DCT: one to four coefficients a block side are inverted.

Standard: PS3.5 annex A.4.1; ISO/IEC 10918-1.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)
from transforms.imaging.codecs.stream_header import read_stream_header

SYNTAXES = frozenset({str(JPEGBaseline8Bit)})


def decode(request: FrameRequest) -> StoredFrame:
    """Return the stored values of an 8-bit gray frame, reduced by 2, 4 or 8.

    Raises:
        NoFastPath: colour, more than 8 bits, padding values, or a stream that disagrees with the
            header.
    """
    if not request.is_gray or request.reduction < 2 or request.signed:
        raise NoFastPath
    if "PixelPaddingValue" in request.dataset:
        raise NoFastPath
    frame = encapsulated_frame(request)
    header = read_stream_header(frame)
    if header is None or not header.is_dct:
        raise NoFastPath  # Pillow corrupts its heap when a lossless stream is scaled
    try:
        with Image.open(BytesIO(frame), formats=("JPEG",)) as image:
            if image.size != (request.columns, request.rows) or image.mode != "L":
                raise NoFastPath
            image.draft(
                "L", (request.columns // request.reduction, request.rows // request.reduction)
            )
            image.load()
            return StoredFrame(np.asarray(image).astype(np.float32))
    except NoFastPath:
        raise
    except Exception as error:  # Pillow raises many types on malformed streams
        raise NoFastPath from error
