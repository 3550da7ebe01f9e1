"""Baseline JPEG gray frames by scaled DCT: one to four coefficients a block side are inverted.

Standard: PS3.5 annex A.4.1; ISO/IEC 10918-1.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from transforms.imaging.codecs.area import padding_range
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

SYNTAXES = frozenset({str(JPEGBaseline8Bit)})


def decode(request: FrameRequest) -> StoredFrame:
    """Return the stored values of an 8-bit gray frame, reduced by 2, 4 or 8.

    Raises:
        NoFastPath: colour, more than 8 bits, padding values, or a stream that disagrees with the
            header.
    """
    if not request.is_gray or request.reduction < 2 or request.signed:
        raise NoFastPath
    if padding_range(request.dataset) is not None:
        raise NoFastPath
    try:
        with Image.open(BytesIO(encapsulated_frame(request)), formats=("JPEG",)) as image:
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
