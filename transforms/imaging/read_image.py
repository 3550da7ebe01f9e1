"""Decode one frame of a DICOM object to a grayscale image or to the network's inputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.imaging.codecs.frame import build_frame_request, wrap_decoder_errors
from transforms.imaging.codecs.registry import decode_frame
from transforms.imaging.limits import Limits
from transforms.imaging.monochrome import to_monochrome2
from transforms.imaging.part10 import ParsedObject, parse
from transforms.imaging.pixel_aspect import to_square_pixels
from transforms.imaging.plates import network_inputs


def read_image(
    data: bytes, long_side: int, *, frame_number: int = 1, limits: Limits | None = None
) -> npt.NDArray[np.float32]:
    """Parse an object and decode one frame; see `decode_image`."""
    limits = limits or Limits()
    parsed = parse(data, limits)
    return decode_image(parsed, long_side, frame_number=frame_number, limits=limits)[0]


def decode_image(
    parsed: ParsedObject, long_side: int, *, frame_number: int = 1, limits: Limits
) -> tuple[npt.NDArray[np.float32], bool]:
    """Decode one frame to a grayscale image.

    Args:
        parsed: The object.
        long_side: Minimum length of the image's long side in pixels. The image is reduced as far as this
            allows, and enlarged only along the side on which its pixels are longer.
        frame_number: Frame to decode, from 1; the last one if the object has fewer.
        limits: Limits of the frame.

    Returns:
        float32[h, w], finite, dense tissue bright, pixel padding darkest, pixels square; and whether the
        frame was decoded by the pydicom fallback.

    Raises:
        InvalidObject: The pixel data is missing, inconsistently described, too large or undecodable.
    """
    with wrap_decoder_errors():
        request = build_frame_request(parsed, frame_number, long_side, limits)
        stored, used_fallback = decode_frame(request)
        gray = to_monochrome2(stored, request)
        return to_square_pixels(gray, request.pixel_aspect), used_fallback


def decode_inputs(
    parsed: ParsedObject, size: int, *, frame_number: int = 1, limits: Limits
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Decode one frame to the network's inputs; see `plates.network_inputs` and `decode_image`."""
    image, used_fallback = decode_image(parsed, size, frame_number=frame_number, limits=limits)
    return network_inputs(image, size), used_fallback
