"""Images encoded in the transfer syntaxes, and what a decode gives of them."""

from __future__ import annotations

import functools
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from tests.synthetic import dataset, image, to_bytes
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_inputs

SIDE = 48
MEAN_LEVELS = 1.0
"""Mean difference allowed between a reduced and a full decode; 0 where both average the same values."""
SHAPES = [(40, 31), (130, 97), (263, 200), (331, 410)]
NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
DCT = (JPEGBaseline8Bit, JPEGExtended12Bit)


def thumbnail(data: bytes) -> np.ndarray:
    found, _ = decode_inputs(parse(data, Limits()), SIDE, limits=Limits())
    return found.astype(int)


@functools.cache
def picture(shape: tuple[int, int], bits: int) -> np.ndarray:
    """Return a cached `image`; do not write to it."""
    return image(seed=shape[0], shape=shape, bits=bits)


def encode(pixels: np.ndarray, syntax: str, precision: int) -> bytes:
    """Return a codestream of this precision."""
    if syntax == JPEGBaseline8Bit:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()
    if syntax == JPEGExtended12Bit:
        return bytes(imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=precision))
    if syntax == JPEGLosslessSV1:
        return bytes(
            imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=precision)
        )
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(pixels, out=bytearray(4 * pixels.nbytes + 1024)))
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels,
            codecformat="j2k",
            reversible=syntax == JPEG2000Lossless,
            level=None if syntax == JPEG2000Lossless else 60,
            bitspersample=None if precision in (8, 16) else precision,
        )
    )


def compressed(stream: bytes, syntax: str, like: np.ndarray, **elements: Any) -> bytes:
    """Return an object with this codestream and the header of an object with the pixels `like`."""
    ds = dataset(like, **elements)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def native(pixels: np.ndarray, **elements: Any) -> bytes:
    return to_bytes(dataset(pixels, **elements))


def bordered(pixels: np.ndarray, border: int, value: int) -> np.ndarray:
    """Return pixels of which `border` rows and columns on each side are padding, and no others."""
    padded = np.where(pixels == value, value + (1 if value == 0 else -1), pixels)
    mask = np.ones(pixels.shape[:2], bool)
    mask[border:-border, border:-border] = False
    padded[mask] = value
    return padded.astype(pixels.dtype)


# A codestream and its full decode
