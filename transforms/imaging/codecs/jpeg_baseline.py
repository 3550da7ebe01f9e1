"""Baseline JPEG grayscale frames, decoded at reduced resolution by scaled DCT.

Standard: PS3.5 annex A.4.1; ISO/IEC 10918-1.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from transforms.imaging.buffer_stream import open_buffer
from transforms.imaging.codecs.area_average import average_blocks
from transforms.imaging.codecs.codestream_header import read_codestream_header
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

SYNTAXES = frozenset({str(JPEGBaseline8Bit)})


def decode(request: FrameRequest) -> StoredFrame:
    """Return the stored values of an 8-bit grayscale frame, reduced by 2, 4 or 8, then by averaging.

    Raises:
        NoFastPath: Color, signed pixels, pixel padding, no reduction, or a codestream that is not DCT or
            that Pillow cannot decode.
    """
    frame, request = encapsulated_frame(request)
    if not request.is_gray or request.reduction < 2 or request.signed or request.padding:
        raise NoFastPath
    codestream = read_codestream_header(frame)
    if codestream is None or not codestream.is_dct:
        raise NoFastPath  # draft mode on a lossless codestream corrupts the heap
    if request.bits_stored < codestream.precision:
        raise NoFastPath
    try:
        with Image.open(open_buffer(frame), formats=("JPEG",)) as image:
            if image.size != (request.columns, request.rows) or image.mode != "L":
                raise NoFastPath
            image.draft(
                "L", (request.columns // request.reduction, request.rows // request.reduction)
            )
            image.load()
            cell = round(request.rows / image.height)
            return average_blocks(np.asarray(image), cell, request)
    except NoFastPath:
        raise
    except Exception as error:  # Pillow raises many types for malformed codestreams
        raise NoFastPath from error
